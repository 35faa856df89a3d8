"""The k-core of a data set: what remains where users and items with few interactions are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.interactions import Interactions, splits_of


def core(interactions: Interactions, k: int) -> Interactions:
    """Leave out users and items with fewer than ``k`` interactions, again and again until none is left that has fewer.

    Repeats count as often as they occur. Ids, order and times of the others stay; what remains may be empty.
    """
    owner = np.repeat(np.arange(interactions.num_users), np.diff(interactions.splits))
    items = np.asarray(interactions.items)
    kept = np.ones(len(items), np.bool_)
    left = -1
    while left != (left := int(kept.sum())):
        by_user = np.bincount(owner[kept], minlength=interactions.num_users)
        kept &= by_user[owner] >= k
        by_item = np.bincount(items[kept], minlength=interactions.num_items)
        kept &= by_item[items] >= k
    counts = np.bincount(owner[kept], minlength=interactions.num_users)
    users = np.flatnonzero(counts)
    remaining, numbered = np.unique(items[kept], return_inverse=True)
    titles = interactions.titles
    return replace(
        interactions,
        user_ids=interactions.user_ids[users],
        item_ids=interactions.item_ids[remaining],
        splits=splits_of(counts[users]),
        items=numbered.astype(np.int32),
        times=np.asarray(interactions.times)[kept],
        titles=None if titles is None else titles[remaining],
    )
