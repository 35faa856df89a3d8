"""Residual networks for small images (He et al. 2016): ResNet-18 in its CIFAR form, and ResNet-8 for CPUs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, images: Tensor) -> Tensor:
        hidden = relu(self.bn1(self.conv1(images)))
        return relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))


class ResNet(nn.Module):
    """Images (b, channels, any, any) to logits (b, num_classes): a stage a width, each with ``depth`` blocks."""

    def __init__(self, channels: int, num_classes: int, widths: Sequence[int], depth: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        blocks = []
        width_in = widths[0]
        for stage, width in enumerate(widths):
            for index in range(depth):
                blocks.append(Block(width_in, width, stride=2 if stage and not index else 1))
                width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width_in, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(images)).mean((2, 3))
        logits: Tensor = self.head(features)
        return logits


def resnet8(channels: int = 3, size: int = 32, num_classes: int = 10) -> ResNet:
    """6n + 2 layers with n = 1: 16, 32 and 64 channels, about 78,000 parameters, whatever the images' size."""
    return ResNet(channels, num_classes, (16, 32, 64), depth=1)


def resnet18(channels: int = 3, size: int = 32, num_classes: int = 10) -> ResNet:
    """64 to 512 channels, two blocks a stage, about 11.2 million parameters, whatever the images' size."""
    return ResNet(channels, num_classes, (64, 128, 256, 512), depth=2)
