"""Which item rows each user's examples touch, ragged and ascending."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled

Ints = NDArray[np.int64]

FLAGS_FOR_A_SORTED_ITEM = 16
"""Flags that can be looked at in the time in which one of a user's items is sorted."""


@compiled
def touched_rows(
    splits: Ints, positives: Ints, negatives: Ints, task_splits: Ints, drawn: Ints, num_items: int
) -> tuple[Ints, Ints]:
    """The distinct items of each user's examples: offsets (n+1,) and items, ascending within a user.

    User k has the pairs splits[k]:splits[k+1] and the examples task_splits[k]:task_splits[k+1] of ``drawn`` (M, w).
    """
    count = len(splits) - 1
    offsets = np.zeros(count + 1, np.int64)
    found = np.empty(len(positives) + len(negatives) + drawn.size, np.int64)
    seen = np.zeros(num_items, np.bool_)
    total = 0
    for k in range(count):
        start = total
        total = _add_new(positives[splits[k] : splits[k + 1]], seen, found, total)
        total = _add_new(negatives[splits[k] : splits[k + 1]], seen, found, total)
        total = _add_new(drawn[task_splits[k] : task_splits[k + 1]].ravel(), seen, found, total)
        _ascend(found[start:total], seen)
        offsets[k + 1] = total
    return offsets, found[:total].copy()


@compiled
def touched_items(splits: Ints, items: Ints, held_out: Ints, num_items: int) -> tuple[Ints, Ints]:
    """The distinct items of each user in its history and among its ``held_out`` (n, h), of which -1 is none.

    Offsets (n+1,) and items, ascending within a user.
    """
    count = len(splits) - 1
    offsets = np.zeros(count + 1, np.int64)
    found = np.empty(len(items) + held_out.size, np.int64)
    seen = np.zeros(num_items, np.bool_)
    total = 0
    for k in range(count):
        start = total
        total = _add_new(items[splits[k] : splits[k + 1]], seen, found, total)
        total = _add_new(held_out[k][held_out[k] >= 0], seen, found, total)
        _ascend(found[start:total], seen)
        offsets[k + 1] = total
    return offsets, found[:total].copy()


@compiled
def _ascend(own: Ints, seen: NDArray[np.bool_]) -> None:
    """Put the items whose flags are up into ascending order, and take the flags down."""
    if FLAGS_FOR_A_SORTED_ITEM * len(own) < len(seen):
        own.sort()
        for item in own:
            seen[item] = False
    else:
        at = 0
        for item in range(len(seen)):
            if seen[item]:
                own[at] = item
                at += 1
                seen[item] = False


@compiled
def _add_new(items: Ints, seen: NDArray[np.bool_], found: Ints, total: int) -> int:
    for item in items:
        if not seen[item]:
            seen[item] = True
            found[total] = item
            total += 1
    return total
