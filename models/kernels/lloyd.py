"""Lloyd's k-means; bounds tell which points may have moved (Hamerly 2010, "Making k-means even faster")."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled
from models.kernels.products import inner, squared_length

Ints = NDArray[np.int64]
Matrix = NDArray[np.floating]
Vector = NDArray[np.floating]


@compiled
def two_nearest(
    point: Vector, square: float, centroids: Matrix, squares: NDArray[np.float64]
) -> tuple[int, float, float]:
    """The nearest centroid, the distance to it, and to the second nearest; of equal ones the first is the nearest."""
    nearest, low, second = 0, np.inf, np.inf
    for k in range(len(centroids)):
        distance = square + squares[k] - 2.0 * inner(point, centroids[k])
        if distance < low:
            nearest, low, second = k, distance, low
        elif distance < second:
            second = distance
    return nearest, math.sqrt(max(low, 0.0)), math.sqrt(max(second, 0.0))


@compiled
def lloyd(points: Matrix, centroids: Matrix, slack: float, smallest_shift: float, iterations: int) -> Ints:
    """Move ``centroids`` (k, d) to their points' means until they shift by less; returns the assignment (n,).

    An empty cluster keeps its centroid. ``slack``: how much closer than its bound a point may seem by rounding.
    """
    n, dim = points.shape
    k = len(centroids)
    assignment = np.zeros(n, np.int64)
    nearest, second = np.full(n, np.inf), np.zeros(n)
    sums, sizes = np.zeros((k, dim)), np.zeros(k, np.int64)
    squares, shifts = np.zeros(k), np.zeros(k)
    for iteration in range(iterations + 1):
        for which in range(k):
            squares[which] = squared_length(centroids[which])
        largest, all_shifts = 0.0, 0.0
        for which in range(k):
            largest = max(largest, shifts[which])
            all_shifts += shifts[which] ** 2
        for i in range(n):
            # Its own centroid went away by at most its shift, the others came closer by at most the largest one.
            nearest[i] += shifts[assignment[i]]
            second[i] -= largest
            if nearest[i] + slack > second[i]:
                before = assignment[i]
                now, nearest[i], second[i] = two_nearest(points[i], squared_length(points[i]), centroids, squares)
                if iteration > 0 and now == before:
                    continue
                assignment[i] = now
                sizes[now] += 1
                for c in range(dim):
                    sums[now, c] += points[i, c]
                if iteration > 0:
                    sizes[before] -= 1
                    for c in range(dim):
                        sums[before, c] -= points[i, c]
        if iteration > 0 and math.sqrt(all_shifts) < smallest_shift:
            break
        if iteration == iterations:
            break
        for which in range(k):
            shifts[which] = 0.0
            if sizes[which]:
                for c in range(dim):
                    mean = points.dtype.type(sums[which, c] / sizes[which])
                    shifts[which] += (mean - centroids[which, c]) ** 2
                    centroids[which, c] = mean
            shifts[which] = math.sqrt(shifts[which])
    return assignment
