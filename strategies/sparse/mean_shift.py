"""Mean shift (Comaniciu and Meer 2002) with a flat kernel, for the few points that a round's users are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MOST_SHIFTS = 300


def largest_cluster(points: Tensor) -> Tensor:
    """(n,) bool: which of the points (n, k) drift to the mode that most of them drift to.

    Of equally large clusters the densest counts, then the one that comes first in the order of its coordinates.
    """
    order = torch.from_numpy(np.lexsort(points.cpu().numpy().T)).to(points.device)
    inside = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    inside[order] = _largest_of_sorted(points[order])
    return inside


def _largest_of_sorted(points: Tensor) -> Tensor:
    bandwidth = estimated_bandwidth(points)
    if bandwidth <= 0:
        equal = pairwise(points, points) == 0
        return equal[equal.sum(1).argmax()]
    modes, weights = shifted(points, bandwidth)
    # The densest mode takes in all modes within the bandwidth, then the next one that is left.
    best = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    left = ~best
    while bool(left.any()):
        densest = torch.where(left, weights, -1).argmax()
        inside = left & (pairwise(modes, modes[densest].unsqueeze(0)).squeeze(1) <= bandwidth)
        if int(inside.sum()) > int(best.sum()):
            best = inside
        left = left & ~inside
    return best


def estimated_bandwidth(points: Tensor, quantile: float = 0.5) -> float:
    """The mean distance to so large a share of the points, each itself included (as scikit-learn estimates it)."""
    nearest = max(1, int(len(points) * quantile))
    return float(pairwise(points, points).topk(nearest, dim=1, largest=False).values.amax(1).mean())


def shifted(points: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Where each point (n, k) ends that moves to the mean of those within the bandwidth, and how many these are."""
    modes = points
    for _ in range(MOST_SHIFTS):
        near = (pairwise(modes, points) <= bandwidth).to(points.dtype)
        moved = near @ points / near.sum(1, keepdim=True)
        still = bool((torch.linalg.vector_norm(moved - modes, dim=1) <= 1e-3 * bandwidth).all())
        modes = moved
        if still:
            break
    return modes, (pairwise(modes, points) <= bandwidth).sum(1).to(points.dtype)


def pairwise(left: Tensor, right: Tensor) -> Tensor:
    """(n, m) distances, computed from differences: none is off by more than rounding."""
    distances: Tensor = torch.linalg.vector_norm(left.unsqueeze(1) - right, dim=2)
    return distances
