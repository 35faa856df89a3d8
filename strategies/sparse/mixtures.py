"""Averages of updates as updates: what a rule hands on that mixes users before the next rule judges them."""

from __future__ import annotations

import torch
from torch import Tensor

from protocol.updates import Updates, splits_of
from strategies.sparse.item_columns import CELLS, Columns, item_columns
from strategies.sparse.side_by_side import side_by_side


def mixtures(updates: Updates, weights: Tensor, users: Tensor) -> Updates:
    """The m updates Σ_j W_kj g_j, called ``users`` (m,), for weights W (m, n) from 0 on with rows that sum to 1.

    A mixture has rows for the items that one of its members touched, and its members' mean number of examples.
    """
    count, num_items = len(weights), int(updates.items.max()) + 1 if len(updates.items) else 0
    members = weights > 0
    touched = torch.zeros(len(updates), num_items, dtype=updates.rows.dtype, device=users.device)
    touched[updates.row_owner, updates.items] = 1
    reached = (members.to(touched.dtype) @ touched) > 0
    splits = splits_of(reached.sum(1))
    destination = splits[:-1].unsqueeze(1) + reached.cumsum(1) - 1
    share = weights.to(updates.rows.dtype)
    rows = updates.rows.new_empty(int(splits[-1]), updates.dim)
    most = max(1, CELLS // (count * max(updates.dim, 1)))

    def mix(columns: Columns) -> None:
        parts = (torch.split(part, most) for part in (columns.positions, columns.owners, columns.items))
        for positions, owners, items in zip(*parts, strict=True):
            sent = updates.rows.index_select(0, positions.flatten()).view(*positions.shape, updates.dim)
            mixed = torch.bmm(share[:, owners].transpose(0, 1), sent)
            inside = reached[:, items].T
            places = destination[:, items].T
            if bool(inside.all()):
                rows[places.flatten()] = mixed.flatten(0, 1)
            else:
                rows[places[inside]] = mixed[inside]

    # No two blocks share an item, so that none of their rows is another's.
    side_by_side(mix, item_columns(updates))
    examples = (weights @ updates.num_examples.to(weights.dtype)).round().clamp(min=1)
    return Updates(
        users=users,
        num_examples=examples.to(torch.int64),
        row_splits=splits,
        items=reached.nonzero()[:, 1],
        rows=rows,
        shared=share.to(updates.shared.dtype) @ updates.shared,
        l2_share=share.to(updates.l2_share.dtype) @ updates.l2_share,
    )
