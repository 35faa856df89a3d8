"""Updates that carry unequal shares of the common L2 term λΘ, because a rule scaled them."""

from __future__ import annotations

from dataclasses import replace

import torch

from protocol.updates import Gradient, Updates, splits_of


def with_whole_l2(updates: Updates, common: Gradient) -> Updates:
    """The same gradients with every share of λΘ 1: what is missing of it is written into the update.

    For rules that look at coordinates. Only users whose share is not 1 get rows for all items.
    """
    odd = updates.l2_share != 1
    if not odd.any():
        return updates
    num_items = len(common.items)
    chosen = odd.nonzero().flatten()
    position = torch.full((len(updates),), -1, device=odd.device)
    position[chosen] = torch.arange(len(chosen), device=odd.device)
    owner = updates.row_owner
    theirs = odd[owner]
    missing = updates.l2_share[chosen] - 1
    dense = missing.view(-1, 1, 1) * common.items
    dense[position[owner[theirs]], updates.items[theirs]] += updates.rows[theirs]

    owners = torch.cat([owner[~theirs], chosen.repeat_interleave(num_items)])
    order = owners.argsort(stable=True)
    items = torch.cat([updates.items[~theirs], torch.arange(num_items, device=odd.device).repeat(len(chosen))])
    rows = torch.cat([updates.rows[~theirs], dense.flatten(0, 1)])
    shared = updates.shared + (updates.l2_share - 1).unsqueeze(1) * common.shared
    return replace(
        updates,
        row_splits=splits_of(torch.where(odd, num_items, updates.row_counts)),
        items=items[order],
        rows=rows[order],
        shared=torch.where(odd.unsqueeze(1), shared, updates.shared),
        l2_share=torch.ones_like(updates.l2_share),
    )
