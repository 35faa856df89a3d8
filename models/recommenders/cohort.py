"""The users asked for in one message: their histories, their draws, their training pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

import draws
from data.interactions import ragged_positions, splits_of
from data.ragged import sorted_unique
from data.shard import Shard
from draws import Stream
from models.recommenders.contrastive import ContrastiveDraws
from models.recommenders.loss import LossOptions

Ints = NDArray[np.int64]

LISTED_FOR_A_DRAW = 16
"""Untouched items that can be listed in the time of one search among the touched ones."""

EXAMPLES_AT_ONCE = 16_384
"""Training items whose draws and gradients are in memory together, whatever the cohort."""


@dataclass(frozen=True)
class Cohort:
    """The n users of one request in ascending order, with their training items.

    ``users`` (n,) population indexes; ``slots`` (n,) their places in the shard; ``splits`` (n+1,) and
    ``items`` (N,): user k trains on ``items[splits[k]:splits[k+1]]``, in order of time. ``whole``: the same users
    with all their training items, where ``items`` are only those trained on.
    """

    shard: Shard
    users: Ints
    slots: Ints
    splits: Ints
    items: Ints
    whole: Cohort | None = None

    @cached_property
    def counts(self) -> Ints:
        """(n,) training items of each user."""
        return np.diff(self.splits)

    @cached_property
    def owner(self) -> Ints:
        """(N,) position of the user whose item it is."""
        return np.repeat(np.arange(len(self.users)), self.counts)

    @property
    def valid(self) -> Ints:
        """(n,) each user's validation item, -1 where it has none."""
        return self.shard.valid[self.slots].astype(np.int64)

    @property
    def test(self) -> Ints:
        """(n,) each user's test item, -1 where it has none."""
        return self.shard.test[self.slots].astype(np.int64)

    @cached_property
    def saturated(self) -> NDArray[np.bool_]:
        """(n,) who touched every item, so that there is no negative to train with."""
        whole = self.whole or self
        return whole._untouched[0] < 1

    def with_negatives(self) -> Cohort:
        """The same users, of whom those that touched every item have no training items: they alone have no pairs."""
        if not self.saturated.any():
            return self
        counts = np.where(self.saturated, 0, self.counts)
        items = self.items[~self.saturated[self.owner]]
        return Cohort(self.shard, self.users, self.slots, splits_of(counts), items, self.whole or self)

    def seen(self, after_valid: bool) -> tuple[Ints, Ints]:
        """Each user's training items as (n+1,) offsets and items, and then its validation item where that is asked."""
        if not after_valid:
            return self.splits, self.items
        has_valid = self.valid >= 0
        items = np.insert(self.items, self.splits[1:][has_valid], self.valid[has_valid])
        return splits_of(self.counts + has_valid), items

    def paired(self, unpaired: int) -> NDArray[np.bool_]:
        """(N,) which training items remain without the oldest ``unpaired`` ones of each user."""
        kept: NDArray[np.bool_] = np.arange(len(self.items)) - self.splits[self.owner] >= unpaired
        return kept

    def newest(self, most: int) -> Cohort:
        """The same users with the newest ``most`` training items of each; what they touched stays the same."""
        counts = np.minimum(self.counts, most)
        items = self.items[ragged_positions(self.splits[1:] - counts, counts)]
        return Cohort(self.shard, self.users, self.slots, splits_of(counts), items, self.whole or self)

    @cached_property
    def _touched(self) -> Ints:
        """Each user's items in training, validation and test as sorted keys: position · (num_items + 1) + item."""
        width = self.shard.num_items + 1
        held_out = np.concatenate([self.valid, self.test])
        owner = np.concatenate([self.owner, np.tile(np.arange(len(self.users)), 2)])
        items = np.concatenate([self.items, held_out])
        return sorted_unique(owner[items >= 0] * width + items[items >= 0])

    @cached_property
    def recurrences(self) -> tuple[Ints, Ints, Ints]:
        """Where users come back to an item: three (N,) arrays.

        The examples of each user with those of one item beside each other, items in the order in which they first
        occur; for each example where its item's begin in that order; and how many they are.
        """
        whole = self.whole or self
        if len(whole._touched) == len(whole.items) + (whole.valid >= 0).sum() + (whole.test >= 0).sum():
            # Nobody has anything twice, and those keys are needed anyway.
            every = np.arange(len(self.items))
            return every, every, np.ones_like(every)
        keys = self.owner * (self.shard.num_items + 1) + self.items
        ordered = np.argsort(keys, kind="stable")
        begins = np.flatnonzero(np.diff(keys[ordered], prepend=-1))
        times = np.diff(begins, append=len(keys))
        first_seen, count = np.empty_like(keys), np.empty_like(keys)
        first_seen[ordered] = np.repeat(ordered[begins], times)
        count[ordered] = np.repeat(times, times)
        together = np.argsort(first_seen, kind="stable")
        begin = np.empty_like(keys)
        at = np.flatnonzero(np.diff(first_seen[together], prepend=-1))
        begin[together] = np.repeat(at, np.diff(at, append=len(keys)))
        return together, begin, count

    @cached_property
    def _untouched(self) -> tuple[Ints, Ints, Ints]:
        """For drawing items that a user never touched: (how many (n,), offsets (n+1,), shifted keys)."""
        keys = self._touched
        touched = np.bincount(keys // (self.shard.num_items + 1), minlength=len(self.users))
        offsets = splits_of(touched)
        rank = np.arange(len(keys)) - np.repeat(offsets[:-1], touched)
        return self.shard.num_items - touched, offsets, keys - rank

    @cached_property
    def _listed(self) -> Ints:
        """Every untouched item of each user, one user after another."""
        untouched = np.ones((len(self.users), self.shard.num_items), np.bool_)
        untouched[np.divmod(self._touched, self.shard.num_items + 1)] = False
        items: Ints = np.nonzero(untouched)[1]
        return items

    def untouched_items(self, owner: Ints, words: NDArray[np.uint64]) -> Ints:
        """One item a word (m,) that user ``owner[m]`` never touched in training, validation or test, uniformly.

        The r-th untouched item is looked up in a list of them, where so many are drawn that making the list pays;
        else it is r plus the number of touched items before it, which a search over the touched items less their
        ranks gives. Raises ``ValueError`` where one of the owners touched every item (see ``with_negatives``).
        """
        if self.whole is not None:
            return self.whole.untouched_items(owner, words)
        available, offsets, shifted = self._untouched
        if len(owner) and available[owner].min() < 1:
            without = self.users[owner[available[owner].argmin()]]
            raise ValueError(f"User {without} has touched every item: no negative is left.")
        drawn = (draws.uniform(words) * available[owner]).astype(np.int64)
        if len(words) * LISTED_FOR_A_DRAW > len(self.users) * self.shard.num_items:
            listed: Ints = self._listed[splits_of(available)[owner] + drawn]
            return listed
        keys = torch.from_numpy(owner * (self.shard.num_items + 1) + drawn)
        before: Ints = torch.searchsorted(torch.from_numpy(shifted), keys, right=True).numpy()
        result: Ints = drawn + before - offsets[owner]
        return result


def cohort_of(shard: Shard, users: Ints) -> Cohort:
    """The cohort of these users, in ascending order. Raises ``ValueError`` for users that the shard does not hold."""
    users = np.sort(users)
    slots = _slots(shard, users)
    starts = shard.train_splits[slots]
    counts = shard.train_splits[slots + 1] - starts
    items = shard.train_items[ragged_positions(starts, counts)].astype(np.int64)
    return Cohort(shard, users, slots, splits_of(counts), items)


def _slots(shard: Shard, users: Ints) -> Ints:
    slots = np.searchsorted(shard.users, users)
    known = slots < len(shard)
    known[known] = shard.users[slots[known]] == users[known]
    if not known.all():
        raise ValueError(f"This node does not host the users {users[~known][:10].tolist()}.")
    return slots


def in_parts(shard: Shard, users: Ints) -> list[Ints]:
    """The users in groups that are small enough to train at once; a user's numbers do not depend on its group."""
    slots = _slots(shard, users)
    counts = shard.train_splits[slots + 1] - shard.train_splits[slots]
    group = (np.cumsum(counts) - counts) // EXAMPLES_AT_ONCE
    return np.split(users, np.flatnonzero(np.diff(group)) + 1)


def negative_items(cohort: Cohort, loss: LossOptions, seed: int, server_round: int) -> Ints:
    """(N,) for each training item one that its user never touched."""
    # Round 0 names the draw that is kept for the whole run.
    drawn_in = server_round if loss.negatives == "fresh" else 0
    words = draws.raw(seed, Stream.NEGATIVES, drawn_in, cohort.users.tolist(), cohort.counts.tolist())
    return cohort.untouched_items(cohort.owner, words)


def contrastive_draws(
    cohort: Cohort, loss: LossOptions, seed: int, server_round: int, dim: int
) -> ContrastiveDraws | None:
    """For each training item another one of the same user and k that it never touched, drawn afresh each round.

    The other one is another item, however often the user came back to the first. A user with a single one
    has no positive and skips the task.
    """
    if not loss.contrastive_weight:
        return None
    together, first, times = cohort.recurrences
    alone = np.zeros(len(cohort.users), np.bool_)
    alone[cohort.owner[times == cohort.counts[cohort.owner]]] = True
    counts = np.where(alone, 0, cohort.counts)
    owner = np.repeat(np.arange(len(counts)), counts)
    splits = splits_of(counts)
    width = 1 + loss.contrastive_negatives
    words = draws.raw(seed, Stream.CONTRASTIVE, server_round, cohort.users.tolist(), (counts * width).tolist())
    words = words.reshape(-1, width)
    places = np.flatnonzero(~alone[cohort.owner])
    start = cohort.splits[owner]
    # The user's items in a circle, equal ones together: the draw starts behind the item's own.
    others = counts[owner] - times[places]
    step = times[places] + (draws.uniform(words[:, 0]) * others).astype(np.int64)
    items = np.empty((len(owner), 1 + width), np.int64)
    items[:, 0] = cohort.items[places]
    items[:, 1] = cohort.items[together[start + (first[places] - start + step) % counts[owner]]]
    negatives = cohort.untouched_items(np.repeat(owner, width - 1), words[:, 1:].ravel())
    items[:, 2:] = negatives.reshape(-1, width - 1)
    keep = None
    if loss.dropout:
        kept = kept_coordinates(
            cohort, Stream.CONTRASTIVE_DROPOUT, loss.dropout, seed, server_round, counts, 1 + width, dim
        )
        keep = torch.from_numpy(kept)
    return ContrastiveDraws(torch.from_numpy(splits), torch.from_numpy(items), keep, loss.dropout)


def kept_coordinates(
    cohort: Cohort, stream: Stream, dropout: float, seed: int, server_round: int, counts: Ints, width: int, dim: int
) -> NDArray[np.bool_]:
    """(Σ counts, width, dim) bool: which coordinates dropout leaves of each user's ``counts`` examples."""
    words_a_vector = -(-dim // 4)
    words = draws.raw(seed, stream, server_round, cohort.users.tolist(), (counts * width * words_a_vector).tolist())
    keep = draws.keep_mask(words, dropout).reshape(-1, width, 4 * words_a_vector)
    return keep[:, :, :dim]
