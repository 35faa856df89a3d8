"""Who used what and when: the one form that every data set is brought into, and its split by time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.ids import index_ids
from data.ragged import ragged_positions as ragged_positions
from data.ragged import splits_of as splits_of
from data.texts import Texts
from settings.options import OptionError

MIN_INTERACTIONS = 3
"""A user with fewer interactions is trained on but never evaluated."""


@dataclass(frozen=True)
class Interactions:
    """Every user's items in the order of time. The arrays may be memory-mapped and are never written to.

    ``user_ids`` (U,) and ``item_ids`` (I,): the original ids; ``splits`` (U+1,) int64: user k's
    interactions are ``splits[k]:splits[k+1]`` of ``items`` (N,) int32 and ``times`` (N,), in whatever unit
    the data set has; ``titles`` (I,): the items' titles, "" where one has none, or None. Raises
    ``ValueError`` where the shapes do not fit together.
    """

    name: str
    user_ids: Texts
    item_ids: Texts
    splits: NDArray[np.int64]
    items: NDArray[np.int32]
    times: NDArray[Any]
    titles: Texts | None = None

    def __post_init__(self) -> None:
        if self.splits.shape != (len(self.user_ids) + 1,) or self.splits[0] != 0 or (np.diff(self.splits) < 0).any():
            raise ValueError(f"{self.name}: splits must rise from 0 and be one more than the users.")
        if not self.splits[-1] == len(self.items) == len(self.times):
            raise ValueError(f"{self.name}: items, times and the last split must agree on the number of interactions.")
        if self.titles is not None and len(self.titles) != len(self.item_ids):
            raise ValueError(f"{self.name}: there must be as many titles as items.")

    @property
    def num_users(self) -> int:
        """Number U of users."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number I of items."""
        return len(self.item_ids)

    @property
    def num_interactions(self) -> int:
        """Number N of interactions, repeats included."""
        return len(self.items)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(U,) how many interactions each user has."""
        return np.diff(self.splits)


@dataclass(frozen=True)
class Split:
    """Leave-one-out by time: train, validation and test of every user.

    ``train_splits`` (U+1,) int64 and ``train_items`` int32 are ragged as in ``Interactions``; ``valid``
    and ``test`` (U,) int32 hold each user's last item but one and last item, -1 for users that are not evaluated.
    """

    num_items: int
    train_splits: NDArray[np.int64]
    train_items: NDArray[np.int32]
    valid: NDArray[np.int32]
    test: NDArray[np.int32]

    @property
    def num_users(self) -> int:
        """Number U of users."""
        return len(self.valid)


def leave_one_out(interactions: Interactions) -> Split:
    """Each user's last interaction is its test item, the one before its validation item, the rest train.

    A user with fewer than ``MIN_INTERACTIONS`` keeps all of them for training and has -1 for both. Repeats
    stay, so that a held-out item may also stand in train. Source: AAAI 2023 paper, experimental settings.
    """
    return split_last_two(interactions.num_items, interactions.splits, interactions.items)


def split_last_two(num_items: int, splits: NDArray[np.int64], items: NDArray[np.int32]) -> Split:
    """Leave-one-out of any ragged items in the order of time."""
    counts = np.diff(splits)
    evaluated = counts >= MIN_INTERACTIONS
    ends = splits[1:][evaluated]
    valid = np.full(len(counts), -1, np.int32)
    test = valid.copy()
    valid[evaluated] = items[ends - 2]
    test[evaluated] = items[ends - 1]
    in_train = np.ones(len(items), np.bool_)
    in_train[ends - 2] = False
    in_train[ends - 1] = False
    return Split(num_items, splits_of(counts - 2 * evaluated), np.asarray(items[in_train]), valid, test)


def from_columns(
    name: str,
    users: Texts | NDArray[Any],
    items: Texts | NDArray[Any],
    times: NDArray[Any],
    titles: Mapping[str, str] | None = None,
) -> Interactions:
    """Interactions from one row each (N,): ids as texts, or integers; times as numbers.

    Ids become indexes in ascending order: of their value where all are whole numbers, else of their text, so
    that the same data in another file, in another order, gives every user and item the same index. Rows
    are sorted by user and time; ties keep the rows' order. Raises ``OptionError`` for no rows or times
    that are not finite.
    """
    if not len(users) == len(items) == len(times):
        raise ValueError(f"{name}: the columns have {len(users)}, {len(items)} and {len(times)} rows.")
    if not len(users):
        raise OptionError(f"The data set {name!r} holds no interactions.")
    if not np.isfinite(times).all():
        raise OptionError(f"The data set {name!r} has a timestamp that is not a finite number.")
    user_ids, user_indexes = index_ids(users, name)
    item_ids, item_indexes = index_ids(items, name)
    order = np.lexsort((times, user_indexes))
    counts = np.bincount(user_indexes, minlength=len(user_ids))
    named = None if titles is None else Texts.of(titles.get(item, "") for item in item_ids)
    return Interactions(
        name, user_ids, item_ids, splits_of(counts), item_indexes[order].astype(np.int32), times[order], named
    )


def require_trainable(interactions: Interactions) -> None:
    """Raise ``OptionError`` where no recommender can be trained: one user, one item, or nothing left to recommend."""
    users, items = interactions.num_users, interactions.num_items
    if users < 2 or items < 2:
        few = f"{users} user{'s' * (users > 1)} and {items} item{'s' * (items > 1)}"
        raise OptionError(f"The data set {interactions.name!r} has {few}: expected at least two of each.")
    if (interactions.counts < items).any():
        return
    owners = np.repeat(np.arange(users), interactions.counts)
    if len(np.unique(owners * items + interactions.items)) == users * items:
        raise OptionError(
            f"In the data set {interactions.name!r} every user has had every item: there is nothing to recommend, and "
            "no item that training could take for one that a user does not like."
        )


def expect_counts(interactions: Interactions, users: int, items: int, number: int, source: str) -> Interactions:
    """The same interactions. Raises ``OptionError`` naming ``source`` where they are not as many as they should be."""
    found = (interactions.num_users, interactions.num_items, interactions.num_interactions)
    if found != (users, items, number):
        raise OptionError(
            f"{source} holds {found[0]:,} users, {found[1]:,} items and {found[2]:,} interactions; the official "
            f"{interactions.name} has {users:,}, {items:,} and {number:,}. Remove the file and get it again."
        )
    return interactions
