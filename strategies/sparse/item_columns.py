"""Updates seen from the items: for each item, the rows of the users who touched it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from protocol.updates import Updates

CELLS = 1 << 18
"""Numbers in one block: a megabyte, so that what is made of a block stays in a core's cache."""


@dataclass(frozen=True)
class Columns:
    """Items that the same number t of users touched.

    ``items`` (m,); ``owners`` (m, t): the positions of the users, ascending; ``positions`` (m, t): where each
    one's row stands among ``of`` (r, d), all the updates' rows.
    """

    items: Tensor
    owners: Tensor
    positions: Tensor
    of: Tensor

    def rows(self) -> Tensor:
        """(m, t, d), gathered anew at every call."""
        return self.of.index_select(0, self.positions.flatten()).view(*self.positions.shape, self.of.shape[1])


def item_columns(updates: Updates, fewest: int = 1) -> Iterator[Columns]:
    """All items touched by at least ``fewest`` users, in blocks of equal count."""
    counts = torch.bincount(updates.items)
    order = updates.items.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    owners = updates.row_owner
    for count in torch.bincount(counts).nonzero().flatten().tolist():
        if count < max(fewest, 1):
            continue
        group = (counts == count).nonzero().flatten()
        steps = torch.arange(count, device=counts.device)
        for items in torch.split(group, max(1, CELLS // (count * max(updates.dim, 1)))):
            positions = order[starts[items].unsqueeze(1) + steps]
            yield Columns(items, owners[positions], positions, updates.rows)
