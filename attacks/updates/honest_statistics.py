"""Coordinate-wise mean and deviation of honest updates: what the model attacks know of benign ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from protocol.updates import Updates, make_updates


@dataclass(frozen=True)
class Coordinates:
    """A value for every coordinate that some honest update touched.

    ``items`` (u,) int64 ascending; ``rows`` (…, u, d); ``shared`` (…, p). All other items' coordinates are 0.
    """

    items: Tensor
    rows: Tensor
    shared: Tensor


def honest_moments(honest: Updates, correction: int = 0) -> tuple[Coordinates, Coordinates]:
    """μ and σ of n ≥ 1 honest updates by coordinate, rows that a user did not send counted as zeros.

    σ divides by n − ``correction``; for a single user it is 0. Items that nobody touched have μ = σ = 0 and are left
    out.
    """
    count = len(honest)
    items, place = torch.unique(honest.items, return_inverse=True)
    senders = torch.bincount(place, minlength=len(items)).unsqueeze(1)
    mean = honest.rows.new_zeros(len(items), honest.dim).index_add_(0, place, honest.rows) / count
    squares = torch.zeros_like(mean).index_add_(0, place, (honest.rows - mean[place]).square())
    degrees = max(count - correction, 1)
    variance = (squares + (count - senders) * mean.square()) / degrees
    shared_mean = honest.shared.mean(0)
    shared_variance = (honest.shared - shared_mean).square().mean(0) * (count / degrees)
    return Coordinates(items, mean, shared_mean), Coordinates(items, variance.sqrt(), shared_variance.sqrt())


def poisoned_updates(honest: Updates, values: Coordinates) -> Updates:
    """The honest updates (k users) with all their parameters replaced, their numbers of examples as they were.

    ``values.rows`` (k, u, d) and ``values.shared`` (k, p): each user's own, or (u, d) and (p,): the same for all.
    """
    count, width = len(honest), len(values.items)
    rows = values.rows.expand(count, -1, -1)
    return make_updates(
        users=honest.users,
        num_examples=honest.num_examples,
        row_splits=torch.arange(count + 1, device=rows.device) * width,
        items=values.items.repeat(count),
        rows=rows.reshape(count * width, rows.shape[2]),
        shared=values.shared.expand(count, -1).contiguous(),
    )
