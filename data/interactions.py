"""Who used what and when: the one form that every data set is brought into, and its split by time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from settings.options import OptionError

MIN_INTERACTIONS = 3
"""A user with fewer interactions is trained on but never evaluated."""


@dataclass(frozen=True)
class Interactions:
    """Every user's items in the order of time. The arrays may be memory-mapped and are never written to.

    ``user_ids`` (U,) and ``item_ids`` (I,): the original ids as text; ``splits`` (U+1,) int64: user k's
    interactions are ``splits[k]:splits[k+1]`` of ``items`` (N,) int32 and ``times`` (N,), in whatever unit
    the data set has; ``titles`` (I,): the items' titles, "" where one has none, or None. Raises
    ``ValueError`` where the shapes do not fit together.
    """

    name: str
    user_ids: NDArray[np.str_]
    item_ids: NDArray[np.str_]
    splits: NDArray[np.int64]
    items: NDArray[np.int32]
    times: NDArray[Any]
    titles: NDArray[np.str_] | None = None

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
    users: NDArray[Any],
    items: NDArray[Any],
    times: NDArray[Any],
    titles: Mapping[str, str] | None = None,
) -> Interactions:
    """Interactions from one row each (N,): ids as integers, text or UTF-8 bytes; times as numbers.

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
    user_ids, user_indexes = _index(users, name)
    item_ids, item_indexes = _index(items, name)
    order = np.lexsort((times, user_indexes))
    counts = np.bincount(user_indexes, minlength=len(user_ids))
    named = None if titles is None else np.array([titles.get(item, "") for item in item_ids.tolist()], np.str_)
    return Interactions(
        name, user_ids, item_ids, splits_of(counts), item_indexes[order].astype(np.int32), times[order], named
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


def splits_of(counts: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) counts to (n+1,) offsets."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def ragged_positions(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions starts[k], …, starts[k]+counts[k]-1 of all k, one after another."""
    splits = splits_of(counts)
    return np.arange(splits[-1]) + np.repeat(starts - splits[:-1], counts)


def _index(ids: NDArray[Any], name: str) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """The distinct ids as text in ascending order, and every row's index among them."""
    numbers = whole_numbers(ids)
    distinct, indexes = np.unique(ids if numbers is None else numbers, return_inverse=True)
    if distinct.dtype.kind == "S":
        try:
            distinct = np.char.decode(distinct, "utf-8")
        except UnicodeDecodeError as error:
            raise OptionError(f"The data set {name!r} has an id that is not UTF-8: {error.object!r}.") from None
    return distinct.astype(np.str_), indexes.reshape(-1)


LONGEST_NUMBER = 18
"""Digits that are sure to fit in 64 bits."""


def whole_numbers(ids: NDArray[Any]) -> NDArray[np.int64] | None:
    """The ids as int64 if all are whole numbers as a computer writes them (no sign, no leading zero), else None."""
    if ids.dtype.kind in "iu":
        if not len(ids) or (ids.min() >= 0 and ids.max() < 10**LONGEST_NUMBER):
            return ids.astype(np.int64, copy=False)
        # As text they would not count as numbers either: the order must not depend on the file's form.
        ids = ids.astype(np.bytes_)
    if ids.dtype.kind == "U":
        ids = np.char.encode(ids, "utf-8")
    if ids.dtype.kind != "S":
        raise ValueError(f"Ids must be integers, text or bytes, not {ids.dtype}.")
    letters = np.ascontiguousarray(ids).view(np.uint8).reshape(len(ids), -1)
    width = 1 + int(np.flatnonzero(letters.any(0))[-1:].sum())
    if width > LONGEST_NUMBER or not letters[:, 0].all():
        return None
    values = np.zeros(len(ids), np.int64)
    for column in range(width):
        letter = letters[:, column]
        digit, blank = letter.astype(np.int64) - ord("0"), letter == 0
        if not (((digit >= 0) & (digit <= 9)) | blank).all():
            return None
        if column and (~blank & (letters[:, 0] == ord("0"))).any():
            return None
        values = np.where(blank, values, values * 10 + digit)
    return values
