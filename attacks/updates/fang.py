"""Fang (Fang et al. 2020, the attack on TrimmedMean with partial knowledge): past the honest values, the wrong way."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.updates.honest_statistics import Coordinates, honest_moments, poisoned_updates
from attacks.view import AttackerView
from protocol.updates import Updates

NEAREST, FARTHEST = 3.0, 4.0
"""The upload lies between so many deviations from the mean."""


class Fang(Attack):
    """A model attack: per coordinate a draw from [μ − 4σ, μ − 3σ] where the gradient is positive, else mirrored."""

    prefix = "fang"

    def poison(self, view: AttackerView) -> Updates:
        """Draws of its own for each selected user."""
        mean, deviation = honest_moments(view.sample_honest())
        # What the model moves by is μ + λΘ; the server adds the second part, and its sign counts.
        decay, count = view.request.loss.weight_decay, len(view.selected)
        against = opposite(mean.rows + decay * view.model.items[mean.items])
        rows = mean.rows + against * deviation.rows * _distance(view.generator, count, mean.rows)
        against_shared = opposite(mean.shared + decay * view.model.shared)
        shared = mean.shared + against_shared * deviation.shared * _distance(view.generator, count, mean.shared)
        return poisoned_updates(view.honest, Coordinates(mean.items, rows, shared))


def opposite(direction: Tensor) -> Tensor:
    """−1 where the honest direction is positive, else 1."""
    return torch.where(direction > 0, -1.0, 1.0)


def _distance(generator: np.random.Generator, count: int, like: Tensor) -> Tensor:
    """``count`` draws from U[3, 4) of a tensor's shape, beside each other."""
    drawn = generator.random((count, *like.shape), np.float32)
    return torch.from_numpy(drawn).mul_(FARTHEST - NEAREST).add_(NEAREST)
