"""Averages of updates as updates: what a rule hands on that mixes users before the next rule judges them."""

from __future__ import annotations

import torch
from torch import Tensor

from protocol.updates import Updates, splits_of
from strategies.sparse.item_columns import CELLS
from strategies.sparse.side_by_side import side_by_side


def mixtures(updates: Updates, weights: Tensor, users: Tensor) -> Updates:
    """The m updates Σ_j W_kj g_j, called ``users`` (m,), for weights W (m, n) from 0 on with rows that sum to 1.

    A mixture has rows for the items that one of its members touched, and its members' mean number of examples.
    """
    count, num_items = len(weights), int(updates.items.max()) + 1 if len(updates.items) else 0
    owner, dim = updates.row_owner, updates.dim
    touched = torch.zeros(len(updates), num_items, dtype=updates.rows.dtype, device=users.device)
    touched[owner, updates.items] = 1
    reached = ((weights > 0).to(touched.dtype) @ touched) > 0
    splits = splits_of(reached.sum(1))
    destination = splits[:-1].unsqueeze(1) + reached.cumsum(1) - 1
    share = weights.to(updates.rows.dtype)
    rows = updates.rows.new_empty(int(splits[-1]), dim)
    order = updates.items.argsort(stable=True)
    starts = splits_of(torch.bincount(updates.items, minlength=num_items)).tolist()

    def mix(items: Tensor) -> None:
        first, last = int(items[0]), int(items[-1]) + 1
        sent = order[starts[first] : starts[last]]
        width = last - first
        block = rows.new_zeros(len(updates) * width, dim)
        block.index_copy_(0, owner[sent] * width + updates.items[sent] - first, updates.rows.index_select(0, sent))
        mixed = (share @ block.view(len(updates), width * dim)).view(count * width, dim)
        inside = reached[:, first:last].flatten().nonzero().flatten()
        places = destination[:, first:last].flatten()[inside]
        rows.index_copy_(0, places, mixed if len(inside) == len(mixed) else mixed.index_select(0, inside))

    # No two blocks share an item, so that none of their rows is another's.
    width = max(1, CELLS // (max(count, len(updates)) * max(dim, 1)))
    blocks = torch.split(torch.arange(num_items), width) if num_items else ()
    side_by_side(mix, blocks)
    return Updates(
        users=users,
        num_examples=mean_examples(updates, weights),
        row_splits=splits,
        items=reached.nonzero()[:, 1],
        rows=rows,
        shared=share.to(updates.shared.dtype) @ updates.shared,
        l2_share=share.to(updates.l2_share.dtype) @ updates.l2_share,
    )


def mean_examples(updates: Updates, weights: Tensor) -> Tensor:
    """(m,) int64: the mean number of examples of each mixture's members, for weights (m, n)."""
    return (weights @ updates.num_examples.to(weights.dtype)).round().clamp(min=1).to(torch.int64)
