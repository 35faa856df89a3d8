"""Dropout's factors of one vector at a time, two decisions a random word."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled
from models.kernels.hashing import short_word, user_key

Ints = NDArray[np.int64]


@compiled
def dropout_factors(factors: NDArray[np.floating], key: np.uint64, vector: int, dropped: int) -> None:
    """Fill ``factors`` (d,) for a key's vector: 0 with probability p = ``dropped``/65536, else 1/(1 − p).

    One word decides coordinate c by its lower half and coordinate c + ⌈d/2⌉ by its upper half.
    """
    dim = len(factors)
    half = (dim + 1) // 2
    lower, upper = factors[:half], factors[half:]
    kind = factors.dtype.type
    scale, nothing = kind(65536.0 / (65536.0 - dropped)), kind(0)
    threshold, sixteen, mask = np.uint32(dropped), np.uint32(16), np.uint32(0xFFFF)
    low, high, first = np.uint32(key), np.uint32(key >> np.uint64(32)), np.uint32(vector * half)
    for c in range(len(upper)):
        drawn = short_word(low, high, np.uint32(first + np.uint32(c)))
        lower[c] = scale if np.uint32(drawn & mask) >= threshold else nothing
        upper[c] = scale if np.uint32(drawn >> sixteen) >= threshold else nothing
    if len(upper) < half:
        drawn = short_word(low, high, np.uint32(first + np.uint32(half - 1)))
        lower[half - 1] = scale if np.uint32(drawn & mask) >= threshold else nothing


@compiled
def kept_coordinates(
    seed: int, stream: int, server_round: int, users: Ints, splits: Ints, width: int, dim: int, dropped: int
) -> NDArray[np.bool_]:
    """(N, width, d) bool: what dropout leaves of ``width`` vectors of each example, of user k those of splits[k].

    For devices on which these kernels do not run, and for tests.
    """
    kept = np.empty((splits[-1], width, dim), np.bool_)
    factors = np.empty(dim, np.float32)
    for k in range(len(users)):
        key = user_key(seed, stream, server_round, users[k])
        for example in range(splits[k], splits[k + 1]):
            for j in range(width):
                dropout_factors(factors, key, (example - splits[k]) * width + j, dropped)
                kept[example, j] = factors != 0
    return kept
