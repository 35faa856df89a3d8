"""The model, the data, and how both are trained and tested."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)


def load_data(partition: int, count: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Three clouds of points, drawn anew for each partition."""
    centres = torch.randn(3, 10, generator=torch.Generator().manual_seed(0)) * 1.5
    generator = torch.Generator().manual_seed(1000 + partition)
    labels = torch.randint(3, (count,), generator=generator)
    return centres[labels] + torch.randn(count, 10, generator=generator), labels


def train(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, epochs: int = 3) -> float:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    net.train()
    total = 0.0
    for _ in range(epochs):
        for part in torch.randperm(len(inputs)).split(30):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(inputs[part]), labels[part])
            loss.backward()
            optimizer.step()
            total = float(loss.detach())
    return total


def test(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    net.eval()
    with torch.no_grad():
        return float((net(inputs).argmax(1) == labels).double().mean())


test.__test__ = False
