"""Labelled images, and the clients' shares of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import draws
from draws import Stream
from settings.options import require

Indices = NDArray[np.int64]

MIN_SHARE = 2
"""Images that every client has at least: BatchNorm has no statistics of fewer."""

REDRAWS = 100

VALIDATION_SHARE = 0.05
"""Of the training images: what the server keeps to validate on, and no client ever sees."""


@dataclass(frozen=True)
class Examples:
    """What a network is trained on: ``images`` (m, channels, size, size) float32, normalised; ``labels`` (m,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: Tensor) -> Examples:
        """The chosen examples, by a (m,) bool mask or by positions."""
        return Examples(self.images[chosen], self.labels[chosen])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels in order, ``size`` at a time; the last batch is as large as it comes."""
        return zip(torch.split(self.images, size), torch.split(self.labels, size), strict=True)

    def join(self, other: Examples) -> Examples:
        """These examples, then the other ones."""
        return Examples(torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]))


@dataclass(frozen=True)
class Split:
    """``images`` (m, channels, size, size) uint8 and ``labels`` (m,) uint8, as the files hold them."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageSet:
    """A data set of labelled images.

    ``mean`` and ``std`` (channels,): what pixels in [0, 1] are normalised with; ``notice``: what whoever reads
    a result of this data must know, "" if nothing. Raises ``ValueError`` where the shapes do not fit together.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notice: str = ""

    def __post_init__(self) -> None:
        for split in (self.train, self.test):
            if split.images.ndim != 4 or split.images.shape[1:] != self.shape or len(split.images) != len(split):
                raise ValueError(f"{self.name}: expected as many images as labels, all of shape {self.shape}.")
            if len(split) and split.labels.max() >= self.num_classes:
                raise ValueError(f"{self.name}: a label is not below the number of classes {self.num_classes}.")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"{self.name}: expected one mean and one standard deviation a channel.")

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image."""
        return self.train.images.shape[1:]

    def normalise(self, images: NDArray[np.uint8]) -> Tensor:
        """(m, channels, height, width) uint8 to float32 with mean 0 and standard deviation 1 a channel."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return torch.from_numpy(images.astype(np.float32)).div_(255).sub_(mean).div_(std)

    def examples(self, split: Split, indices: Indices | None = None) -> Examples:
        """The examples at some indices of a split, normalised; all of them by default."""
        images, labels = (
            (split.images, split.labels) if indices is None else (split.images[indices], split.labels[indices])
        )
        return Examples(self.normalise(images), torch.from_numpy(labels.astype(np.int64)))


@dataclass(frozen=True)
class Allotment:
    """Who has which training images: ascending indices of each client's, and of the server's for validation."""

    shares: list[Indices]
    validation: Indices


def allot(labels: NDArray[np.uint8], num_clients: int, alpha: float, seed: int) -> Allotment:
    """Set the server's validation images aside, and deal the others out; all from the seed alone.

    ``labels`` (m,) of the training images; ``alpha``: see ``dirichlet_shares``, 0 for ``iid_shares``. Raises
    ``OptionError`` where there are too few images.
    """
    order = draws.generator(seed, Stream.VALIDATION).permutation(len(labels))
    count = max(1, round(VALIDATION_SHARE * len(labels)))
    validation, rest = np.sort(order[:count]), np.sort(order[count:])
    if alpha:
        shares = dirichlet_shares(labels[rest], num_clients, alpha, seed)
    else:
        shares = iid_shares(len(rest), num_clients, seed)
    return Allotment([rest[share] for share in shares], validation)


def iid_shares(num_images: int, num_clients: int, seed: int) -> list[Indices]:
    """Deal all images out at random: for each client ascending indices; sizes differ by at most one.

    Raises ``OptionError`` where there are fewer than ``MIN_SHARE`` images a client.
    """
    _require_enough(num_images, num_clients)
    order = draws.generator(seed, Stream.PARTITION).permutation(num_images)
    return [np.sort(part) for part in np.array_split(order, num_clients)]


def dirichlet_shares(labels: NDArray[np.uint8], num_clients: int, alpha: float, seed: int) -> list[Indices]:
    """Split each class over the clients in proportions from Dirichlet(α) (Hsu et al. 2019): ascending indices.

    Small α: few classes a client; large α: like ``iid_shares``. Drawn anew until every client has
    ``MIN_SHARE`` images; raises ``OptionError`` where α is not positive or ``REDRAWS`` draws were not enough.
    """
    _require_enough(len(labels), num_clients)
    require(alpha > 0, "dirichlet-alpha", alpha, "a positive number")
    generator = draws.generator(seed, Stream.PARTITION)
    for _ in range(REDRAWS):
        parts: list[list[Indices]] = [[] for _ in range(num_clients)]
        for label in np.unique(labels):
            members = generator.permutation(np.flatnonzero(labels == label))
            ends = np.cumsum(generator.dirichlet(np.full(num_clients, alpha)))[:-1]
            for part, piece in zip(parts, np.split(members, np.round(ends * len(members)).astype(int)), strict=True):
                part.append(piece)
        shares = [np.sort(np.concatenate(part)) for part in parts]
        if min(map(len, shares)) >= MIN_SHARE:
            return shares
    require(False, "dirichlet-alpha", alpha, f"a larger value: {num_clients} clients could not all get images")
    return []


def _require_enough(num_images: int, num_clients: int) -> None:
    most = num_images // MIN_SHARE
    require(1 <= num_clients <= most, "num-clients", num_clients, f"1 to {most}, for {num_images} images")
