"""What must hold of numbers, offsets and item indexes before a kernel reads them: compiled code does not look again."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


def has_kernels(values: Tensor) -> bool:
    """Whether the compiled loops take these numbers: 32-bit or 64-bit ones of the CPU."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)


def require_items(items: Ints, num_items: int) -> None:
    """Raise ``IndexError`` where an item is outside a table of ``num_items`` rows."""
    if len(items) and (items.min() < 0 or items.max() >= num_items):
        wrong = items[(items < 0) | (items >= num_items)][0]
        raise IndexError(f"Item {wrong} is outside the table, whose items are 0 to {num_items - 1}.")


def require_splits(splits: Ints, users: int, rows: int) -> None:
    """Raise ``ValueError`` unless ``splits`` are the offsets of ``users`` stretches that span ``rows`` rows."""
    if len(splits) != users + 1 or splits[0] != 0 or splits[-1] != rows or (splits[1:] < splits[:-1]).any():
        raise ValueError(f"The offsets {splits.tolist()[:8]} … do not divide {rows} rows among {users} users.")
