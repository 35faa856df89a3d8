"""Gaussian (Fang et al. 2020): draws that look like honest gradients coordinate by coordinate."""

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


@dataclass(frozen=True)
class GaussianOptions:
    """``reading``: in the authors' program σ divides by one less than the number of honest updates."""

    reading: Reading = option("text", READINGS)


class Gaussian(Attack):
    """A model attack: each user uploads a draw of its own from N(μ, σ²) in every coordinate."""

    prefix = "gaussian"
    Options = GaussianOptions

    def poison(self, view: AttackerView) -> Updates:
        """One draw a selected user."""
        mean, deviation = honest_moments(view.sample_honest(), correction=self.options.reading == "program")
        count = len(view.selected)
        rows = mean.rows + deviation.rows * _normal(view.generator, count, mean.rows)
        shared = mean.shared + deviation.shared * _normal(view.generator, count, mean.shared)
        return poisoned_updates(view.honest, Coordinates(mean.items, rows, shared))


def _normal(generator: np.random.Generator, count: int, like: Tensor) -> Tensor:
    """``count`` standard normal draws of a tensor's shape, beside each other."""
    return torch.from_numpy(generator.standard_normal((count, *like.shape), np.float32)).to(like.device)
