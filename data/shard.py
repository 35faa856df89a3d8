"""What one node holds: the split of its own users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.interactions import Interactions, Split, ragged_positions, split_last_two, splits_of

USERS_AT_ONCE = 1 << 16
"""Users whose positions among the interactions are in memory together."""


@dataclass(frozen=True)
class Shard:
    """The split of n users of a population.

    ``users`` (n,) int64: indexes in the population, strictly increasing; user ``users[k]`` has
    ``train_items[train_splits[k]:train_splits[k+1]]``, ``valid[k]`` and ``test[k]``, as in ``Split``.
    """

    users: NDArray[np.int64]
    train_splits: NDArray[np.int64]
    train_items: NDArray[np.int32]
    valid: NDArray[np.int32]
    test: NDArray[np.int32]
    num_items: int
    num_users: int

    def __len__(self) -> int:
        return len(self.users)

    @property
    def num_examples(self) -> NDArray[np.int64]:
        """(n,) how many training interactions each user has."""
        return np.diff(self.train_splits)


def shard_of(split: Split, users: ArrayLike) -> Shard:
    """The users' part of a split, whatever order they are named in.

    Raises ``ValueError`` for unknown or repeated users.
    """
    chosen = _sorted_users(users, split.num_users)
    starts = split.train_splits[chosen]
    counts = split.train_splits[chosen + 1] - starts
    return Shard(
        users=chosen,
        train_splits=splits_of(counts),
        train_items=split.train_items[ragged_positions(starts, counts)],
        valid=split.valid[chosen],
        test=split.test[chosen],
        num_items=split.num_items,
        num_users=split.num_users,
    )


def load_shard(interactions: Interactions, users: ArrayLike) -> Shard:
    """The same as ``shard_of(leave_one_out(interactions), users)``, reading these users' interactions alone.

    With memory-mapped interactions the cost depends on the shard, not on the population.
    """
    chosen = _sorted_users(users, interactions.num_users)
    starts = range(0, max(len(chosen), 1), USERS_AT_ONCE)
    splits = [_split(interactions, chosen[start : start + USERS_AT_ONCE]) for start in starts]
    return Shard(
        users=chosen,
        train_splits=splits_of(np.concatenate([np.diff(split.train_splits) for split in splits])),
        train_items=np.concatenate([split.train_items for split in splits]),
        valid=np.concatenate([split.valid for split in splits]),
        test=np.concatenate([split.test for split in splits]),
        num_items=interactions.num_items,
        num_users=interactions.num_users,
    )


def _split(interactions: Interactions, chosen: NDArray[np.int64]) -> Split:
    starts = interactions.splits[chosen]
    counts = interactions.splits[chosen + 1] - starts
    items = interactions.items[ragged_positions(starts, counts)]
    return split_last_two(interactions.num_items, splits_of(counts), items)


def _sorted_users(users: ArrayLike, num_users: int) -> NDArray[np.int64]:
    chosen = np.sort(np.asarray(users, np.int64))
    if len(chosen) and (chosen[0] < 0 or chosen[-1] >= num_users):
        raise ValueError(f"Users {chosen[0]} to {chosen[-1]} are not all among the {num_users} of the data set.")
    if (np.diff(chosen) == 0).any():
        raise ValueError("A user stands twice in one shard.")
    return chosen
