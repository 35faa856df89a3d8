"""Offsets of ragged arrays, lists of different lengths one after another, and the distinct values of one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def splits_of(counts: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) counts to (n+1,) offsets."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def ragged_positions(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions starts[k], …, starts[k]+counts[k]-1 of all k, one after another."""
    splits = splits_of(counts)
    return np.arange(splits[-1]) + np.repeat(starts - splits[:-1], counts)


def sorted_unique(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distinct keys in ascending order; for nearly sorted keys several times faster than ``np.unique``."""
    keys = np.sort(keys, kind="stable")
    first = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]
