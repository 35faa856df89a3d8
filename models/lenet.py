"""LeNet-5 (LeCun et al. 1998) with ReLU: the small convolutional network for MNIST."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu


class LeNet(nn.Module):
    """Images (b, channels, size, size) to logits (b, num_classes); 61,706 parameters for MNIST.

    Sub-sampling is average pooling as in the original, which is also a quarter faster here than the
    maximum. Raises ``ValueError`` for a size other than 28 (padded to 32) and 32.
    """

    def __init__(self, channels: int = 1, size: int = 28, num_classes: int = 10) -> None:
        super().__init__()
        if size not in (28, 32):
            raise ValueError(f"LeNet takes images of 28 or 32 pixels a side, not {size}.")
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=(32 - size) // 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = relu(avg_pool2d(self.conv1(images), 2))
        hidden = relu(avg_pool2d(self.conv2(hidden), 2)).flatten(1)
        hidden = relu(self.fc2(relu(self.fc1(hidden))))
        logits: Tensor = self.fc3(hidden)
        return logits
