"""Sums of distances between the rows of a matrix of which one update moved some (UNION, Eq. 6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled, compiled_fused
from models.kernels.products import squared_length

Ints = NDArray[np.int64]
Matrix = NDArray[np.floating]
Vector = NDArray[np.floating]

TILE = 128
"""Columns that are multiplied together: 64 coordinates of so many fill a core's first cache."""


@compiled_fused
def add_products(out: Vector, other_out: Vector, row: Vector, other: Vector, columns: Matrix) -> None:
    """Add row · columns (d, w) to ``out`` (w,), and other · columns to ``other_out``, four coordinates at a time."""
    dim, width = columns.shape
    whole = dim - dim % 4
    for c in range(0, whole, 4):
        a, b, e, f = row[c], row[c + 1], row[c + 2], row[c + 3]
        p, q, r, s = other[c], other[c + 1], other[c + 2], other[c + 3]
        one, two, three, four = columns[c], columns[c + 1], columns[c + 2], columns[c + 3]
        for j in range(width):
            out[j] = out[j] + a * one[j] + b * two[j] + e * three[j] + f * four[j]
            other_out[j] = other_out[j] + p * one[j] + q * two[j] + r * three[j] + s * four[j]
    for c in range(whole, dim):
        for j in range(width):
            out[j] += row[c] * columns[c, j]
            other_out[j] += other[c] * columns[c, j]


@compiled
def add_distances(total: NDArray[np.float64], products: Vector, squares: Vector, square: float, skipped: int) -> None:
    """Add √max(‖a‖² + ‖b_j‖² − 2⟨a, b_j⟩, 0) to ``total`` for the columns b_j from ``skipped`` on."""
    kind = products.dtype.type
    for j in range(len(products)):
        distance = squares[j] + square - kind(2) * products[j]
        products[j] = np.sqrt(distance) if distance > 0 else kind(0)
    for j in range(skipped, len(products)):
        total[j] += products[j]


@compiled
def distances_of_moved(base: Matrix, places: Ints, steps: Matrix) -> float:
    """Σ_{a≠b} ‖x_a − x_b‖ over the ordered pairs of rows (k, d) of which at least one is moved.

    x is ``base`` (k, d) with the rows ``places`` (t,) replaced by ``steps`` (t, d). The moved rows come first, so that
    each pair is met once: row a < t with every row after it. Raises ``ValueError`` where a row is moved twice.
    """
    t, (k, dim) = len(places), base.shape
    tiles = (k + TILE - 1) // TILE
    # A tile is (d, TILE): coordinates of neighbouring rows stand beside each other. Zeros fill the last one.
    columns = np.zeros((tiles, dim, TILE), base.dtype)
    squares = np.zeros((tiles, TILE), base.dtype)
    moved = np.zeros(k, np.bool_)
    for a in range(t):
        if moved[places[a]]:
            raise ValueError("An update holds an item twice.")
        moved[places[a]] = True
    at = 0
    for which in range(t + k):
        if which >= t and moved[which - t]:
            continue
        row = steps[which] if which < t else base[which - t]
        tile, j = at // TILE, at % TILE
        for c in range(dim):
            columns[tile, c, j] = row[c]
        squares[tile, j] = squared_length(row)
        at += 1
    total = np.zeros((tiles, TILE))
    out, other = np.empty(TILE, base.dtype), np.empty(TILE, base.dtype)
    for tile in range(tiles):
        first = tile * TILE
        for a in range(0, min(t, first + TILE), 2):
            # A last row without a partner is computed twice and counted once.
            b = min(a + 1, t - 1)
            out[:] = 0
            other[:] = 0
            add_products(out, other, steps[a], steps[b], columns[tile])
            add_distances(total[tile], out, squares[tile], squares[a // TILE, a % TILE], max(a + 1 - first, 0))
            if b > a:
                add_distances(total[tile], other, squares[tile], squares[b // TILE, b % TILE], max(b + 1 - first, 0))
    result = 0.0
    for at in range(k):
        result += total[at // TILE, at % TILE]
    return 2 * result


@compiled
def distances_without(distances: Matrix, row_sums: NDArray[np.float64], places: Ints) -> float:
    """Σ_{a≠b} of ``distances`` (k, k) over the ordered pairs without any of the rows ``places`` (t,)."""
    total = 0.0
    for a in range(len(row_sums)):
        total += row_sums[a]
    for a in places:
        total -= 2 * row_sums[a]
        for b in places:
            total += distances[a, b]
    return float(total)
