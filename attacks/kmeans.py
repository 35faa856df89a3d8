"""Lloyd's k-means on the item table, with random distinct items as the first centroids."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LARGEST_SHIFT = 1e-4
MOST_ITERATIONS = 300


def kmeans(points: Tensor, clusters: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Assignment (n,) int64 and centroids (k, d) of ``points`` (n, d), with k = min(clusters, n).

    Ends when the centroids' shift (Frobenius norm) is below 1e-4. An empty cluster keeps its centroid.
    """
    first = generator.choice(len(points), min(clusters, len(points)), replace=False)
    centroids = points[torch.from_numpy(first).to(points.device)]
    numbers = torch.arange(len(centroids), device=points.device)
    assignment = _nearest(points, centroids)
    for _ in range(MOST_ITERATIONS):
        members = (assignment.unsqueeze(1) == numbers).to(points.dtype)
        sizes = members.sum(0)
        means = (members.T @ points) / sizes.clamp(min=1).unsqueeze(1)
        moved = torch.where((sizes > 0).unsqueeze(1), means, centroids)
        shift = float((moved - centroids).norm())
        centroids = moved
        assignment = _nearest(points, centroids)
        if shift < LARGEST_SHIFT:
            break
    return assignment, centroids


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    # ‖x−c‖² less the ‖x‖² that all centroids share.
    return (centroids.square().sum(1) - points @ (2 * centroids).T).min(1).indices
