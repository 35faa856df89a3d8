"""Sums of distances between the rows of a matrix of which one update moved some (UNION, Eq. 6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled, compiled_reduction
from models.kernels.products import squared_length

Ints = NDArray[np.int64]
Matrix = NDArray[np.floating]
Vector = NDArray[np.floating]


@compiled
def moved_first(base: Matrix, places: Ints, steps: Matrix, centre: Vector, ordered: Matrix, squares: Vector) -> None:
    """Fill ``ordered`` (k, d) with the moved rows, steps (t, d) less ``centre`` (d,), and then the others of ``base``.

    ``base`` (k, d) is around the centre already; row ``places[a]`` of it moved to ``steps[a]``. ``squares`` (k,):
    ‖x‖² of each. Raises ``ValueError`` where a row is moved twice.
    """
    moved = np.zeros(len(base), np.bool_)
    for a in range(len(places)):
        if moved[places[a]]:
            raise ValueError("An update holds an item twice.")
        moved[places[a]] = True
        for c in range(len(centre)):
            ordered[a, c] = steps[a, c] - centre[c]
    at = len(places)
    for row in range(len(base)):
        if not moved[row]:
            ordered[at] = base[row]
            at += 1
    for a in range(len(base)):
        squares[a] = squared_length(ordered[a])


@compiled
def distances_beyond(products: Matrix, squares: Vector) -> float:
    """Σ_{a<b} ‖x_a − x_b‖ over the first m rows x_a and all w rows x_b, of ⟨x_a, x_b⟩ (m, w) and ‖x_b‖² (w,)."""
    total = 0.0
    for a in range(len(products)):
        total += distances_to(products[a, a + 1 :], squares[a + 1 :], squares[a])
    return total


@compiled_reduction
def distances_to(products: Vector, squares: Vector, square: float) -> float:
    """Σ_b √max(‖a‖² + ‖b‖² − 2⟨a, b⟩, 0) for the products ⟨a, b⟩ of one row with others."""
    kind = products.dtype.type
    total = kind(0)
    for b in range(len(products)):
        distance = squares[b] + square - kind(2) * products[b]
        total += np.sqrt(distance if distance > 0 else kind(0))
    return float(total)


@compiled
def distances_without(distances: Matrix, row_sums: NDArray[np.float64], places: Ints) -> float:
    """Σ_{a≠b} of the symmetric ``distances`` (k, k) over the ordered pairs without any of the rows ``places`` (t,)."""
    total = 0.0
    for a in range(len(row_sums)):
        total += row_sums[a]
    for a in range(len(places)):
        total -= 2 * (row_sums[places[a]] - sum_at(distances[places[a]], places[:a]))
    return total


@compiled_reduction
def sum_at(values: Vector, places: Ints) -> float:
    """Σ of the values at some places."""
    total = 0.0
    for place in places:
        total += values[place]
    return total
