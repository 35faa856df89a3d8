"""Sums over the rows of sparse updates, each row read once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled
from models.kernels.products import inner, squared_length

Ints = NDArray[np.int64]
Matrix = NDArray[np.floating]
Vector = NDArray[np.floating]


@compiled
def add_weighted(total: Matrix, splits: Ints, items: Ints, rows: Matrix, factors: Vector, weights: Vector) -> None:
    """Add w_k · (f_k g_k) to ``total`` (num_items, d) for every user k, users in order."""
    for k in range(len(weights)):
        factor, weight = factors[k], weights[k]
        for r in range(splits[k], splits[k + 1]):
            row, sum_ = rows[r], total[items[r]]
            for c in range(rows.shape[1]):
                sum_[c] += weight * (row[c] * factor)


@compiled
def scaled(splits: Ints, rows: Matrix, factors: Vector) -> Matrix:
    """(r, d): each user's rows times its factor."""
    result = np.empty_like(rows)
    for k in range(len(factors)):
        factor = factors[k]
        for r in range(splits[k], splits[k + 1]):
            row, into = rows[r], result[r]
            for c in range(rows.shape[1]):
                into[c] = row[c] * factor
    return result


@compiled
def extents(splits: Ints, rows: Matrix, bits: Ints) -> tuple[Ints, NDArray[np.float64]]:
    """Of each user's rows the largest |value|, as the bits of that number (n,), and Σ_i ‖g_ki‖² (n,).

    ``bits`` are the rows seen as whole numbers. Without their sign these are in the order of the numbers, and a NaN is
    larger than all of them.
    """
    count, dim = len(splits) - 1, rows.shape[1]
    largest, squares = np.zeros(count, bits.dtype), np.zeros(count)
    magnitude = bits.dtype.type(np.iinfo(bits.dtype).max)
    highest = np.empty(dim, bits.dtype)
    for k in range(count):
        highest[:] = 0
        for r in range(splits[k], splits[k + 1]):
            row = bits[r]
            for c in range(dim):
                highest[c] = max(highest[c], row[c] & magnitude)
            squares[k] += squared_length(rows[r])
        for c in range(dim):
            largest[k] = max(largest[k], highest[c])
    return largest, squares


@compiled
def inner_products(splits: Ints, items: Ints, rows: Matrix, table: Matrix) -> NDArray[np.float64]:
    """(n,) Σ_i ⟨g_ki, table_i⟩ over each user's rows."""
    products = np.zeros(len(splits) - 1)
    for k in range(len(products)):
        for r in range(splits[k], splits[k + 1]):
            products[k] += inner(rows[r], table[items[r]])
    return products


@compiled
def sign_counts(splits: Ints, items: Ints, rows: Matrix, chosen: Matrix) -> Ints:
    """(n, 2): how many of each user's numbers are positive and negative where ``chosen`` (num_items, d) is not 0."""
    counts = np.zeros((len(splits) - 1, 2), np.int64)
    for k in range(len(counts)):
        for r in range(splits[k], splits[k + 1]):
            row, of_item = rows[r], chosen[items[r]]
            positive, negative = np.int32(0), np.int32(0)
            for c in range(len(row)):
                counted = of_item[c] != 0
                positive += np.int32(counted & (row[c] > 0))
                negative += np.int32(counted & (row[c] < 0))
            counts[k, 0] += positive
            counts[k, 1] += negative
    return counts
