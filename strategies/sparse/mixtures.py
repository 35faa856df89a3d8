"""Averages of updates as updates: what a rule hands on that mixes users before the next rule judges them."""

from __future__ import annotations

import torch
from torch import Tensor

from models.kernels.bounds import require_items
from models.kernels.gram import rows_by_item
from models.kernels.mixing import mix
from protocol.updates import Updates, splits_of
from strategies.sparse.item_columns import CELLS
from strategies.sparse.side_by_side import side_by_side

PARTS = 16
"""Stretches of items that are mixed side by side."""


def mixtures(updates: Updates, weights: Tensor, users: Tensor) -> Updates:
    """The m updates Σ_j W_kj g_j, called ``users`` (m,), for weights W (m, n) from 0 on with rows that sum to 1.

    A mixture has rows for the items that one of its members touched, and its members' mean number of examples.
    """
    num_items = int(updates.items.max()) + 1 if len(updates.items) else 0
    touched = torch.zeros(len(updates), num_items, dtype=updates.rows.dtype, device=users.device)
    touched[updates.row_owner, updates.items] = 1
    reached = ((weights > 0).to(touched.dtype) @ touched) > 0
    splits = splits_of(reached.sum(1))
    destination = splits[:-1].unsqueeze(1) + reached.cumsum(1) - 1
    share = weights.to(updates.rows.dtype)
    rows = updates.rows.new_empty(int(splits[-1]), updates.dim)
    (_mix if updates.has_kernels else _mix_dense)(updates, share, torch.where(reached, destination, -1), rows)
    return Updates(
        users=users,
        num_examples=mean_examples(updates, weights),
        row_splits=splits,
        items=reached.nonzero()[:, 1],
        rows=rows,
        shared=share.to(updates.shared.dtype) @ updates.shared,
        l2_share=share.to(updates.l2_share.dtype) @ updates.l2_share,
    )


def _mix(updates: Updates, share: Tensor, destination: Tensor, rows: Tensor) -> None:
    """Fill ``rows`` with the mixtures' rows; ``destination`` (m, num_items): where each one's are, −1 for nowhere."""
    splits, items, sent = updates.arrays()
    num_items = destination.shape[1]
    require_items(items, num_items)
    index = rows_by_item(splits, items, num_items)

    def of_items(part: int) -> None:
        first, stop = (num_items * cut // PARTS for cut in (part, part + 1))
        mix(*index, sent, share.numpy(), destination.numpy(), first, stop, rows.numpy())

    side_by_side(of_items, range(PARTS))


def _mix_dense(updates: Updates, share: Tensor, destination: Tensor, rows: Tensor) -> None:
    """The same by dense blocks of items, as torch does it on other devices."""
    count, num_items = destination.shape
    owner, dim = updates.row_owner, updates.dim
    order = updates.items.argsort(stable=True)
    starts = splits_of(torch.bincount(updates.items, minlength=num_items)).tolist()
    # No two blocks share an item, so that none of their rows is another's.
    width = max(1, CELLS // (max(count, len(updates)) * max(dim, 1)))
    for first in range(0, num_items, width):
        last = min(first + width, num_items)
        sent, items = order[starts[first] : starts[last]], last - first
        block = rows.new_zeros(len(updates) * items, dim)
        block.index_copy_(0, owner[sent] * items + updates.items[sent] - first, updates.rows.index_select(0, sent))
        mixed = (share @ block.view(len(updates), items * dim)).view(count * items, dim)
        places = destination[:, first:last].flatten()
        rows.index_copy_(0, places[places >= 0], mixed[places >= 0])


def mean_examples(updates: Updates, weights: Tensor) -> Tensor:
    """(m,) int64: the mean number of examples of each mixture's members, for weights (m, n)."""
    return (weights @ updates.num_examples.to(weights.dtype)).round().clamp(min=1).to(torch.int64)
