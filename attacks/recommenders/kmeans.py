"""Lloyd's k-means on the item table, with random distinct items as the first centroids.

Later iterations move few items, and bounds on the distances tell which ones may have moved (Hamerly 2010, "Making
k-means even faster"): what comes out is Lloyd's, up to rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.kernels.lloyd import lloyd

LARGEST_SHIFT = 1e-4
MOST_ITERATIONS = 300

SLACK = 1e-4
"""How much closer than its bound a point may seem by rounding, as a share of the points' typical length."""


def kmeans(points: Tensor, clusters: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Assignment (n,) int64 and centroids (k, d) of ``points`` (n, d), with k = min(clusters, n).

    Ends when the centroids' shift (Frobenius norm) is below 1e-4. An empty cluster keeps its centroid.
    """
    first = generator.choice(len(points), min(clusters, len(points)), replace=False)
    centroids = points[torch.from_numpy(first).to(points.device)]
    squares = points.square().sum(1)
    slack = SLACK * float(squares.mean().sqrt())
    if points.device.type == "cpu" and points.dtype in (torch.float32, torch.float64):
        assigned = lloyd(points.contiguous().numpy(), centroids.numpy(), slack, LARGEST_SHIFT, MOST_ITERATIONS)
        return torch.from_numpy(assigned), centroids
    assignment, nearest, second = _two_nearest(points, squares, centroids)
    sums, sizes = _members(points, assignment, len(centroids))
    for _ in range(MOST_ITERATIONS):
        means = (sums / sizes.clamp(min=1).unsqueeze(1)).to(points.dtype)
        moved = torch.where((sizes > 0).unsqueeze(1), means, centroids)
        shifts = (moved - centroids).norm(dim=1)
        centroids = moved
        # A point's own centroid went away by at most its shift, the others came closer by at most the largest one.
        nearest += shifts[assignment]
        second -= shifts.max()
        open_ones = (nearest + slack > second).nonzero().flatten()
        some = points.index_select(0, open_ones)
        before = assignment[open_ones]
        now, nearest[open_ones], second[open_ones] = _two_nearest(some, squares[open_ones], centroids)
        assignment[open_ones] = now
        left = (now != before).nonzero().flatten()
        gained, more = _members(some[left], now[left], len(centroids))
        lost, fewer = _members(some[left], before[left], len(centroids))
        sums += gained - lost
        sizes += more - fewer
        if float(shifts.norm()) < LARGEST_SHIFT:
            break
    return assignment, centroids


def _two_nearest(points: Tensor, squares: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) the nearest centroid, the distance to it, and the distance to the second nearest."""
    # ‖x−c‖² less the ‖x‖² that all centroids share.
    partial = centroids.square().sum(1) - points @ (2 * centroids).T
    if len(centroids) == 1:
        partial = torch.cat([partial, torch.full_like(partial, torch.inf)], 1)
    low, nearest = partial.min(1)
    second = partial.scatter_(1, nearest.unsqueeze(1), torch.inf).amin(1)
    return nearest, (low + squares).clamp_(min=0).sqrt_(), (second + squares).clamp_(min=0).sqrt_()


def _members(points: Tensor, assignment: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """The sums (k, d) and numbers (k,) of the clusters' points, in float64: they are added to for many iterations."""
    sums = points.new_zeros(clusters, points.shape[1], dtype=torch.float64)
    return sums.index_add_(0, assignment, points.double()), torch.bincount(assignment, minlength=clusters)
