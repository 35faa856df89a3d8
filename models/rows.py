"""Gradients of item rows, summed per (user, item): from contributions in any order to ragged, sorted rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_BITMAP = 1 << 26
"""Cells of a (users, items) bitmap up to which it beats sorting the keys."""


@dataclass(frozen=True)
class RowSlots:
    """Where each contribution goes.

    ``row_splits`` (n+1,), ``items`` (r,) int64 strictly increasing within a user; ``slots`` (m,) int64: the
    row that contribution m adds to.
    """

    row_splits: Tensor
    items: Tensor
    slots: Tensor


def row_slots(owner: Tensor, items: Tensor, num_users: int, num_items: int) -> RowSlots:
    """Slots for m contributions of users ``owner`` (m,) in [0, num_users) to ``items`` (m,) in [0, num_items)."""
    keys = owner * num_items + items
    if num_users * num_items <= LARGEST_BITMAP:
        present = torch.zeros(num_users * num_items, dtype=torch.bool, device=keys.device)
        present[keys] = True
        unique = present.nonzero().flatten()
        slot_of_key = torch.empty(num_users * num_items, dtype=torch.int64, device=keys.device)
        slot_of_key[unique] = torch.arange(len(unique), device=keys.device)
        slots = slot_of_key[keys]
    else:
        unique, slots = torch.unique(keys, return_inverse=True)
    borders = torch.arange(num_users + 1, device=keys.device) * num_items
    return RowSlots(torch.searchsorted(unique, borders), unique % num_items, slots)


def pieces(splits: Tensor, largest: int) -> list[slice]:
    """Cut ragged examples into parts of at most ``largest`` whose order of additions is each user's own.

    A user's examples are cut at multiples of ``largest`` counted from its first one, and parts of several
    users go together; so what one user's sums round to does not depend on who else is in the cohort.
    """
    parts: list[slice] = []
    start = stop = 0
    for first, end in zip(splits[:-1].tolist(), splits[1:].tolist(), strict=True):
        for cut in [*range(first + largest, end, largest), end]:
            if cut - start > largest:
                parts.append(slice(start, stop))
                start = stop
            stop = cut
    if stop > start:
        parts.append(slice(start, stop))
    return parts


def as_numbers(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where ``keep`` (bool, contiguous) is true, else 0."""
    # From bytes torch converts six times as fast as from truth values.
    return keep.view(torch.uint8).to(dtype)
