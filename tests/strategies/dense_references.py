"""The rules that mix, weigh or cluster users, written from their papers for dense matrices of updates (n, D)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from random_updates import Floats


def geometric_median(matrix: Floats, iterations: int, smoothing: float) -> Floats:
    """RFA, Algorithm 2: z ← Σ β_i g_i / Σ β_i with β_i = 1 / max(ν, ‖z − g_i‖), from z = 0."""
    point = np.zeros(matrix.shape[1])
    for _ in range(iterations):
        closeness = [1 / max(smoothing, float(np.linalg.norm(point - row))) for row in matrix]
        point = sum(weight * row for weight, row in zip(closeness, matrix, strict=True)) / sum(closeness)
    return point


def centered_clipping(matrix: Floats, threshold: float, iterations: int) -> Floats:
    """Karimireddy et al. 2021, Eq. 5, from v = 0."""
    centre = np.zeros(matrix.shape[1])
    for _ in range(iterations):
        pulls = []
        for row in matrix:
            pull = row - centre
            length = float(np.linalg.norm(pull))
            pulls.append(pull * min(1.0, threshold / length) if length else pull)
        centre = centre + np.mean(pulls, axis=0)
    return centre


def neighbor_mixing(matrix: Floats, f: int) -> Floats:
    """Allouah et al. 2023, Algorithm 2: each row's mean with its nearest ones, n − f in all."""
    mixed = []
    for row in matrix:
        distances = [float(np.linalg.norm(row - other)) for other in matrix]
        mixed.append(matrix[np.argsort(distances, kind="stable")[: len(matrix) - f]].mean(0))
    return np.stack(mixed)


def mean_around_median(matrix: Floats, f: int) -> Floats:
    """Xie et al. 2018: per coordinate the mean of the n − f values nearest to the median; the lower of equally near."""
    columns = []
    for column in np.sort(matrix, axis=0).T:
        nearest = np.argsort(np.abs(column - np.median(column)), kind="stable")[: len(column) - f]
        columns.append(column[nearest].mean())
    return np.array(columns)


def squared_projections(matrix: Floats) -> Floats:
    """Shejwalkar and Houmansadr 2021, Algorithm 2, lines 5 to 8: ⟨g_i − μ, v⟩² with v the top right singular vector."""
    centred = matrix - matrix.mean(0)
    direction = np.linalg.svd(centred)[2][0]
    return np.square(centred @ direction)


def cosine(first: Floats, second: Floats) -> float:
    """0 where one of them is zero."""
    scale = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / scale if scale else 0.0


def fools_gold_weights(matrix: Floats, confidence: float) -> Floats:
    """Fung et al. 2020, Algorithm 1, on one round; negative similarities count as 0."""
    n = len(matrix)
    similar = np.array([[max(cosine(a, b), 0.0) for b in matrix] for a in matrix])
    closest = np.array([max((similar[i, j] for j in range(n) if j != i), default=0.0) for i in range(n)])
    for i in range(n):
        for j in range(n):
            if i != j and closest[j] > closest[i]:
                similar[i, j] *= closest[i] / closest[j]
    weights = np.array([1 - max((similar[i, j] for j in range(n) if j != i), default=0.0) for i in range(n)])
    if weights.max() <= 0:
        return np.ones(n)
    weights = np.clip(weights / weights.max(), 0, 0.99)
    with np.errstate(divide="ignore"):
        weights = np.clip(confidence * (np.log(weights / (1 - weights)) + 0.5), 0, 1)
    return weights if weights.any() else np.ones(n)


def clipped_to_median(matrix: Floats) -> Floats:
    """Each row g · min(1, M/‖g‖) with M the median norm."""
    norms = np.linalg.norm(matrix, axis=1)
    middle = float(np.median(norms))
    return np.stack([row * min(1.0, middle / max(norm, 1e-300)) for row, norm in zip(matrix, norms, strict=True)])


def sign_shares(matrix: Floats, chosen: NDArray[np.bool_]) -> Floats:
    """Xu et al. 2022, Algorithm 2: the shares of positive, zero and negative numbers among the chosen coordinates."""
    part = matrix[:, chosen]
    return np.stack([(part > 0).mean(1), (part == 0).mean(1), (part < 0).mean(1)], 1)


def trusted_mean(matrix: Floats, reference: Floats) -> Floats:
    """Cao et al. 2021, Algorithm 2."""
    total, result = 0.0, np.zeros(matrix.shape[1])
    for row in matrix:
        trust = max(cosine(row, reference), 0.0)
        if trust > 0:
            result += trust * row * float(np.linalg.norm(reference)) / float(np.linalg.norm(row))
            total += trust
    return result / total if total else result
