"""The part of a data set that a run declares public: what an attack may know that is said to know some of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import draws
from data.interactions import Interactions, splits_of
from data.shard import load_shard
from draws import Stream


def public_part(interactions: Interactions, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Each user's public training items, as offsets (num_users + 1,) and items.

    Each training interaction is public with the probability ``share``, drawn by the seed; no held-out item is.
    """
    shard = load_shard(interactions, np.arange(interactions.num_users))
    public = draws.generator(seed, Stream.PUBLIC_PART).random(len(shard.train_items)) < share
    owner = np.repeat(shard.users, shard.num_examples)[public]
    splits = splits_of(np.bincount(owner, minlength=interactions.num_users))
    return torch.from_numpy(splits), torch.from_numpy(shard.train_items[public].astype(np.int64))
