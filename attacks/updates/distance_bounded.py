"""Min-Max and Min-Sum (Shejwalkar and Houmansadr 2021): as far out as the honest updates' distances allow."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.updates.honest_statistics import Coordinates, honest_moments, poisoned_updates
from attacks.view import AttackerView
from protocol.updates import Gradient, Updates
from settings.options import option


@dataclass(frozen=True)
class DistanceBoundedOptions:
    """Options of Min-Max and Min-Sum, with μ and σ the honest mean and deviation."""

    perturbation: Literal["std", "unit", "sign"] = option("std", "where to: std −σ, unit −μ/‖μ‖, sign −sign(μ)")


@dataclass(frozen=True)
class Distances:
    """What a bound is made of, for n honest updates x_i.

    ``pairwise`` (n, n): ‖x_i − x_j‖²; ‖μ + γp − x_i‖² = ``constant`` (n,) + 2γ ``slope`` (n,) + γ² ``curvature``.
    """

    pairwise: Tensor
    constant: Tensor
    slope: Tensor
    curvature: float


class DistanceBounded(Attack):
    """A model attack: all users upload the same μ + γp, with the largest γ that a bound on its distances allows.

    It assumes no rule. One controlled user alone has no distances to hide among: then γ is 0.
    """

    Options = DistanceBoundedOptions

    @abstractmethod
    def largest_factor(self, distances: Distances) -> float:
        """γ."""

    def poison(self, view: AttackerView) -> Updates:
        """The same update for every selected user."""
        sample = view.sample_honest()
        mean, deviation = honest_moments(sample)
        towards = perturbation(mean, deviation, self.options.perturbation)
        factor = self.largest_factor(distances_along(sample, mean, towards))
        rows, shared = mean.rows + factor * towards.rows, mean.shared + factor * towards.shared
        return poisoned_updates(view.honest, Coordinates(mean.items, rows, shared))


class MinMax(DistanceBounded):
    """Its largest distance to an honest update is that between two honest ones (Eq. 6 of the paper)."""

    prefix = "min-max"

    def largest_factor(self, distances: Distances) -> float:
        room = distances.pairwise.max() - distances.constant
        return min(
            largest_root(distances.curvature, float(slope), float(left))
            for slope, left in zip(distances.slope, room, strict=True)
        )


class MinSum(DistanceBounded):
    """The sum of its squared distances to the honest updates is at most an honest one's (Eq. 7 of the paper)."""

    prefix = "min-sum"

    def largest_factor(self, distances: Distances) -> float:
        room = float(distances.pairwise.sum(1).max() - distances.constant.sum())
        return largest_root(len(distances.slope) * distances.curvature, float(distances.slope.sum()), room)


def largest_root(curvature: float, slope: float, room: float) -> float:
    """The largest γ ≥ 0 with γ²·curvature + 2γ·slope ≤ room, 0 where there is none or any would do."""
    if curvature <= 0 or room < 0:
        return 0.0
    return max((-slope + math.sqrt(slope**2 + curvature * room)) / curvature, 0.0)


def perturbation(mean: Coordinates, deviation: Coordinates, kind: Literal["std", "unit", "sign"]) -> Coordinates:
    """The direction p."""
    if kind == "std":
        return Coordinates(mean.items, -deviation.rows, -deviation.shared)
    if kind == "sign":
        return Coordinates(mean.items, -mean.rows.sign(), -mean.shared.sign())
    length = float((mean.rows.square().sum() + mean.shared.square().sum()).sqrt()) or 1.0
    return Coordinates(mean.items, -mean.rows / length, -mean.shared / length)


def distances_along(sample: Updates, mean: Coordinates, towards: Coordinates) -> Distances:
    """Of the honest updates, whose touched items are ``mean.items``, in double precision."""
    compact = replace(
        sample,
        items=torch.searchsorted(mean.items, sample.items.contiguous()),
        rows=sample.rows.double(),
        shared=sample.shared.double(),
    )
    centre, step = (Gradient(at.rows.double(), at.shared.double()) for at in (mean, towards))
    rows = compact.rows.new_zeros(len(sample), len(mean.items), sample.dim)
    rows[compact.row_owner, compact.items] = compact.rows
    matrix = torch.cat([rows.flatten(1), compact.shared], 1)
    products = matrix @ matrix.T
    squares = products.diagonal()
    pairwise = (squares.unsqueeze(1) + squares - 2 * products).clamp(min=0).fill_diagonal_(0)
    constant = squares - 2 * compact.inner(centre) + _inner(centre, centre)
    return Distances(
        pairwise, constant.clamp(min=0), _inner(centre, step) - compact.inner(step), float(_inner(step, step))
    )


def _inner(one: Gradient, other: Gradient) -> Tensor:
    return (one.items * other.items).sum() + (one.shared * other.shared).sum()
