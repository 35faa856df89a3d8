"""A digest of what one node holds, so that a server notices another copy of the data set, and a resume another file."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from data.shard import Shard


def shard_digest(shard: Shard, user_ids: NDArray[np.str_], item_ids: NDArray[np.str_]) -> str:
    """32 hex digits over the users of a shard with their ids (n,), all items' ids (I,), and the users' split.

    The cost is that of the shard and the catalogue, not of the population. Two copies of a data set give the same users
    the same digest exactly where nothing of it differs for them.
    """
    digest = hashlib.sha256()
    for ids in (user_ids, item_ids):
        # A digest of the letters alone could not tell where an id ends.
        text = "\0".join(ids.tolist()).encode("utf-8", "surrogatepass")
        digest.update(f"{len(ids)} {len(text)} ".encode() + text)
    for column in (shard.users, shard.train_splits, shard.train_items, shard.valid, shard.test):
        # The widest kind of each: a copy must not differ by how it was stored.
        values = np.ascontiguousarray(column, np.int64)
        digest.update(f"{len(values)} ".encode())
        digest.update(values.data)
    return digest.hexdigest()[:32]
