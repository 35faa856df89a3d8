"""Order statistics of each coordinate, for a few dozen rows at a time.

Rows are compared whole, each coordinate by itself, in an order that does not depend on the values: a sorting network
(Batcher's merge exchange; Knuth, The Art of Computer Programming, volume 3, algorithm 5.2.2 M). So the processor works
on many coordinates at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled

Rows = NDArray[np.floating]

WIDTH = 64
"""Coordinates that are worked on at once: those of some dozen rows stay in a core's nearest cache."""


@compiled
def middle_means(rows: Rows, total: int, low: int, high: int) -> Rows:
    """(m, d): the mean of the order statistics low, …, high−1 of ``total`` values: the t of (m, t, d), the rest zeros.

    Terms are added in ascending order, the negative ones first.
    """
    count, sent, dim = rows.shape
    means = np.empty((count, dim), rows.dtype)
    values, sums = np.zeros((sent, WIDTH), rows.dtype), np.empty(WIDTH, rows.dtype)
    for i in range(count):
        for start in range(0, dim, WIDTH):
            width = min(WIDTH, dim - start)
            _sort(rows[i, :, start : start + width], values)
            _add_statistics(values, total, low, high, sums)
            for c in range(width):
                means[i, start + c] = sums[c] / (high - low)
    return means


@compiled
def counted_middle_means(rows: Rows, counts: Rows, total: int, low: int, high: int) -> Rows:
    """(m, d): ``middle_means`` where row k of item i stands for ``counts`` (m, t) equal ones; the rest are zeros."""
    means = np.empty((len(rows), rows.shape[2]), rows.dtype)
    for i in range(len(rows)):
        _counted_middle(rows[i], counts[i], total, low, high, means[i])
    return means


@compiled
def _counted_middle(rows: Rows, counts: Rows, total: int, low: int, high: int, means: Rows) -> None:
    sent, dim = rows.shape
    values, shares = np.empty((sent + 1, WIDTH), rows.dtype), np.empty((sent + 1, WIDTH), rows.dtype)
    first, stop = rows.dtype.type(low), rows.dtype.type(high)
    for start in range(0, dim, WIDTH):
        width = min(WIDTH, dim - start)
        # All that was not sent is one more row, of zeros.
        values[:] = 0
        shares[sent] = total - counts.sum()
        for k in range(sent):
            shares[k] = counts[k]
            for c in range(width):
                values[k, c] = rows[k, start + c]
        # By insertion: of equal rows few are left.
        for last in range(1, sent + 1):
            for k in range(last, 0, -1):
                _exchange_counted(values[k - 1], values[k], shares[k - 1], shares[k])
        below, sums = np.zeros(WIDTH, rows.dtype), np.zeros(WIDTH, rows.dtype)
        for k in range(sent + 1):
            _add_counted(values[k], shares[k], below, first, stop, sums)
        for c in range(width):
            means[start + c] = sums[c] / (high - low)


@compiled
def _exchange_counted(lower: Rows, higher: Rows, of_lower: Rows, of_higher: Rows) -> None:
    for c in range(WIDTH):
        a, b, of_a, of_b = lower[c], higher[c], of_lower[c], of_higher[c]
        turned = a > b
        lower[c], higher[c] = np.fmin(a, b), np.fmax(a, b)
        of_lower[c] = of_b if turned else of_a
        of_higher[c] = of_a if turned else of_b


@compiled
def _add_counted(row: Rows, shares: Rows, below: Rows, low: Any, high: Any, sums: Rows) -> None:
    """Add to ``sums`` as many of each value as have a place from ``low`` to below ``high``; ``below`` goes before."""
    zero = row.dtype.type(0)
    for c in range(WIDTH):
        above = below[c] + shares[c]
        inside = np.fmin(above, high) - np.fmax(below[c], low)
        sums[c] += np.fmax(inside, zero) * (row[c] if inside > zero else zero)
        below[c] = above


@compiled
def means_around_medians(rows: Rows, total: int, nearest: int) -> Rows:
    """(m, d): the mean of the ``nearest`` values to the median of ``total``: the t of (m, t, d), the rest zeros.

    The nearest ones are neighbours in the order: starting from the lowest, value k gives way to value k + ``nearest``
    while that lies nearer to the median.
    """
    count, sent, dim = rows.shape
    means = np.empty((count, dim), rows.dtype)
    values, every = np.zeros((sent, WIDTH), rows.dtype), np.empty((total, WIDTH), rows.dtype)
    medians = np.empty(WIDTH, rows.dtype)
    low, high = (total - 1) // 2, total // 2 + 1
    for i in range(count):
        for start in range(0, dim, WIDTH):
            width = min(WIDTH, dim - start)
            _sort(rows[i, :, start : start + width], values)
            _add_statistics(values, total, low, high, medians)
            medians /= high - low
            for k in range(total):
                _add_statistics(values, total, k, k + 1, every[k])
            for k in range(total - nearest):
                _give_way(every[k % nearest], every[k + nearest], medians)
            for c in range(width):
                means[i, start + c] = 0
            for k in range(nearest):
                for c in range(width):
                    means[i, start + c] += every[k, c]
            for c in range(width):
                means[i, start + c] /= nearest
    return means


@compiled
def _sort(rows: Rows, values: Rows) -> None:
    """Copy the rows (t, w) to the first columns of ``values`` (t, WIDTH), each column in ascending order."""
    count = len(rows)
    for k in range(count):
        for c in range(rows.shape[1]):
            values[k, c] = rows[k, c]
    largest = 1
    while 2 * largest < count:
        largest *= 2
    step = largest
    while step > 0:
        gap, apart, part = largest, step, 0
        while True:
            for k in range(count - apart):
                if k & step == part:
                    _exchange(values[k], values[k + apart])
            if gap == step:
                break
            apart, gap, part = gap - step, gap // 2, step
        step //= 2


@compiled
def _exchange(lower: Rows, higher: Rows) -> None:
    for c in range(WIDTH):
        a, b = lower[c], higher[c]
        lower[c], higher[c] = np.fmin(a, b), np.fmax(a, b)


@compiled
def _add_statistics(values: Rows, total: int, low: int, high: int, sums: Rows) -> None:
    """Σ of the order statistics low, …, high−1, from the sent ones (t, WIDTH) in order and ``total`` − t zeros.

    The zeros stand between the negative and the positive values: the negative ones keep their place in the order, the
    positive ones move up by the number of zeros.
    """
    sent = len(values)
    zeros, zero = total - sent, values.dtype.type(0)
    for c in range(WIDTH):
        sums[c] = 0
    for k in range(low, min(high, sent)):
        row = values[k]
        for c in range(WIDTH):
            sums[c] += np.fmin(row[c], zero)
    for k in range(max(low - zeros, 0), high - zeros):
        row = values[k]
        for c in range(WIDTH):
            sums[c] += np.fmax(row[c], zero)


@compiled
def _give_way(lowest: Rows, higher: Rows, medians: Rows) -> None:
    for c in range(WIDTH):
        if medians[c] - lowest[c] > higher[c] - medians[c]:
            lowest[c] = higher[c]
