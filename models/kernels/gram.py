"""Inner products between sparse updates, over the rows that users share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled
from models.kernels.products import inner

Ints = NDArray[np.int64]
Matrix = NDArray[np.floating]


@compiled
def rows_by_item(splits: Ints, items: Ints, num_items: int) -> tuple[Ints, Ints, Ints]:
    """For each item the rows that touch it, users in order: offsets (num_items+1,), positions (r,), owners (r,)."""
    offsets = np.zeros(num_items + 1, np.int64)
    for item in items:
        offsets[item + 1] += 1
    for item in range(num_items):
        offsets[item + 1] += offsets[item]
    free = offsets[:-1].copy()
    positions, owners = np.empty(len(items), np.int64), np.empty(len(items), np.int64)
    for k in range(len(splits) - 1):
        for r in range(splits[k], splits[k + 1]):
            at = free[items[r]]
            positions[at] = r
            owners[at] = k
            free[items[r]] = at + 1
    return offsets, positions, owners


@compiled
def gram(
    offsets: Ints, positions: Ints, owners: Ints, rows: Matrix, first: int, stop: int, users: int
) -> NDArray[np.float64]:
    """(n, n) ⟨g_a, g_b⟩ for a ≠ b over the items first, …, stop − 1; the diagonal means nothing.

    The first three arrays are those of ``rows_by_item``.
    """
    products = np.zeros((users, users))
    for item in range(first, stop):
        for x in range(offsets[item], offsets[item + 1]):
            row, of_row = rows[positions[x]], products[owners[x]]
            for y in range(offsets[item], x):
                of_row[owners[y]] += inner(row, rows[positions[y]])
    for a in range(users):
        for b in range(a):
            products[b, a] = products[a, b]
    return products
