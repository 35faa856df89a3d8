"""BPR's gradient of each user (Rendle et al. 2009; Eq. 1 of the AAAI 2023 paper without its L2 term)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled
from models.kernels.dropout import dropout_factors
from models.kernels.products import inner

Ints = NDArray[np.int64]
Matrix = NDArray[np.floating]
Vector = NDArray[np.floating]

LOG_OFFSET = 1e-8
"""Eq. 1 takes ln(σ(x) + 1e-8)."""


@compiled
def add_bpr(
    table: Matrix,
    vector: Vector,
    key: np.uint64,
    dropped: int,
    positives: Ints,
    negatives: Ints,
    place: Ints,
    rows: Matrix,
    vector_gradient: Vector,
) -> float:
    """Add one user's ∂L/∂e_i to ``rows`` and ∂L/∂p to ``vector_gradient``; returns L.

    L = −(1/n) Σ_(i,j) ln(σ(x) + 1e-8) over the n pairs, x = p · (e_i − e_j), each of the three vectors after dropout.
    Item i's row is ``place[i]``.
    """
    dim, kind = table.shape[1], table.dtype.type
    factors = np.ones((3, dim), table.dtype)
    of_user, of_positive, of_negative = factors[0], factors[1], factors[2]
    user, difference = np.empty(dim, table.dtype), np.empty(dim, table.dtype)
    share = 1.0 / max(len(positives), 1)
    loss = 0.0
    for pair in range(len(positives)):
        if dropped:
            for which in range(3):
                dropout_factors(factors[which], key, 3 * pair + which, dropped)
        positive, negative = table[positives[pair]], table[negatives[pair]]
        for c in range(dim):
            user[c] = vector[c] * of_user[c]
            difference[c] = positive[c] * of_positive[c] - negative[c] * of_negative[c]
        sigma = 1.0 / (1.0 + math.exp(-np.float64(inner(user, difference))))
        loss -= share * math.log(sigma + LOG_OFFSET)
        slope = kind(-share * sigma * (1.0 - sigma) / (sigma + LOG_OFFSET))
        by_positive, by_negative = rows[place[positives[pair]]], rows[place[negatives[pair]]]
        for c in range(dim):
            vector_gradient[c] += slope * difference[c] * of_user[c]
        for c in range(dim):
            by_positive[c] += slope * user[c] * of_positive[c]
        for c in range(dim):
            by_negative[c] -= slope * user[c] * of_negative[c]
    return loss
