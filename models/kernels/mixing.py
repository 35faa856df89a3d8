"""Weighted means of sparse updates that are sparse updates themselves, each of their rows written once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled_fused

Ints = NDArray[np.int64]
Matrix = NDArray[np.floating]


@compiled_fused
def mix(
    offsets: Ints,
    positions: Ints,
    owners: Ints,
    rows: Matrix,
    weights: Matrix,
    destination: Ints,
    first: int,
    stop: int,
    mixed: Matrix,
) -> None:
    """Fill the rows of the items first, …, stop − 1 in ``mixed`` with Σ_j W_kj g_j for weights W (m, n).

    The first three arrays are those of ``rows_by_item``; ``destination`` (m, num_items) says where mixture k's row of
    an item stands in ``mixed``, −1 for nowhere.
    """
    members, shares = np.empty(weights.shape[1], np.int64), np.empty(weights.shape[1], weights.dtype)
    for item in range(first, stop):
        for k in range(len(weights)):
            if destination[k, item] < 0:
                continue
            count = 0
            for x in range(offsets[item], offsets[item + 1]):
                weight = weights[k, owners[x]]
                if weight > 0:
                    members[count], shares[count] = positions[x], weight
                    count += 1
            _add(rows, members[:count], shares, mixed[destination[k, item]])


@compiled_fused
def _add(rows: Matrix, members: Ints, shares: Matrix, into: Matrix) -> None:
    """Overwrite ``into`` with the sum, one row after another; four at a time, so that it is written less often."""
    into[:] = 0
    count = len(members) // 4 * 4
    for x in range(0, count, 4):
        a, b, c, d = rows[members[x]], rows[members[x + 1]], rows[members[x + 2]], rows[members[x + 3]]
        of_a, of_b, of_c, of_d = shares[x], shares[x + 1], shares[x + 2], shares[x + 3]
        for i in range(len(into)):
            into[i] = into[i] + of_a * a[i] + of_b * b[i] + of_c * c[i] + of_d * d[i]
    for x in range(count, len(members)):
        row, share = rows[members[x]], shares[x]
        for i in range(len(into)):
            into[i] += share * row[i]
