"""Sums over one vector, added up lane by lane."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled_reduction

Vector = NDArray[np.floating]


@compiled_reduction
def inner(left: Vector, right: Vector) -> Any:
    """Σ_c left_c · right_c."""
    total = left.dtype.type(0)
    for c in range(len(left)):
        total += left[c] * right[c]
    return total


@compiled_reduction
def squared_length(vector: Vector) -> Any:
    """Σ_c vector_c²."""
    total = vector.dtype.type(0)
    for c in range(len(vector)):
        total += vector[c] * vector[c]
    return total
