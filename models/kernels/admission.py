"""Which users' items the server does not accept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled

Ints = NDArray[np.int64]


@compiled
def users_with_bad_items(splits: Ints, items: Ints, num_items: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) whether any of a user's items is outside the table, and whether they are not strictly increasing."""
    outside, unordered = np.zeros(len(splits) - 1, np.bool_), np.zeros(len(splits) - 1, np.bool_)
    for k in range(len(outside)):
        for r in range(splits[k], splits[k + 1]):
            outside[k] |= items[r] < 0 or items[r] >= num_items
            unordered[k] |= r > splits[k] and items[r] <= items[r - 1]
    return outside, unordered
