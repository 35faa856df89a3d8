"""Fang (Fang et al. 2020, the attack on TrimmedMean with partial knowledge): past the honest values, the wrong way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.updates.honest_statistics import Coordinates, honest_moments, poisoned_updates
from attacks.view import READINGS, AttackerView, Reading
from protocol.updates import Updates
from settings.options import option

NEAREST, FARTHEST = 3.0, 4.0
"""The upload lies between so many deviations from the mean."""


@dataclass(frozen=True)
class FangOptions:
    """``reading``: the authors' program goes along the gradient's sign, each upload by one draw for all coordinates."""

    reading: Reading = option("text", READINGS)


class Fang(Attack):
    """A model attack: per coordinate a draw from [μ − 4σ, μ − 3σ] where the gradient is positive, else mirrored.

    In the authors' program an upload is μ + s·sign(μ)·σ, with one s from [3, 4) for the whole of it.
    """

    prefix = "fang"
    Options = FangOptions

    def poison(self, view: AttackerView) -> Updates:
        """Draws of its own for each selected user."""
        program = self.options.reading == "program"
        mean, deviation = honest_moments(view.sample_honest(), correction=program)
        # What the model moves by is μ + λΘ; the server adds the second part, and its sign counts.
        decay, count = view.request.loss.weight_decay, len(view.selected)
        whole = mean.rows + decay * view.model.items[mean.items]
        whole_shared = mean.shared + decay * view.model.shared
        if program:
            length = _distance(view.generator, count, mean.shared.new_empty(1))
            rows = mean.rows + length.unsqueeze(2) * whole.sign() * deviation.rows
            shared = mean.shared + length * whole_shared.sign() * deviation.shared
        else:
            rows = mean.rows + opposite(whole) * deviation.rows * _distance(view.generator, count, mean.rows)
            far = _distance(view.generator, count, mean.shared)
            shared = mean.shared + opposite(whole_shared) * deviation.shared * far
        return poisoned_updates(view.honest, Coordinates(mean.items, rows, shared))


def opposite(direction: Tensor) -> Tensor:
    """−1 where the honest direction is positive, else 1."""
    return torch.where(direction > 0, -1.0, 1.0)


def _distance(generator: np.random.Generator, count: int, like: Tensor) -> Tensor:
    """``count`` draws from U[3, 4) of a tensor's shape, beside each other."""
    drawn = generator.random((count, *like.shape), np.float32)
    return torch.from_numpy(drawn).to(like.device).mul_(FARTHEST - NEAREST).add_(NEAREST)
