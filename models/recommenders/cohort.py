"""The users asked for in one message: their histories, their draws, their training pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.interactions import ragged_positions, splits_of
from data.shard import Shard
from draws import Stream
from models.kernels import dropout
from models.kernels.bounds import require_items
from models.kernels.cohort import Histories, Task, examples_of, negatives_of
from models.kernels.touched import touched_items
from models.recommenders.contrastive import ContrastiveDraws
from models.recommenders.loss import LossOptions

Ints = NDArray[np.int64]

DECISIONS = 65_536
"""Dropout's probability is rounded to so many parts of one."""

STREAMS = int(Stream.NEGATIVES), int(Stream.DROPOUT), int(Stream.CONTRASTIVE), int(Stream.CONTRASTIVE_DROPOUT)

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
        available: Ints = self.shard.num_items - np.diff(self.histories.touched_splits)
        return available < 1

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
    def histories(self) -> Histories:
        """What compiled loops read: what the users train on, and what else they touched."""
        splits, touched = (self.whole or self)._touched
        return Histories(self.users, self.splits, self.items, splits, touched)

    @cached_property
    def _touched(self) -> tuple[Ints, Ints]:
        """Each user's distinct items in training, validation and test, ascending: offsets (n+1,) and items."""
        held_out = np.stack([self.valid, self.test], 1)
        require_items(self.items, self.shard.num_items)
        require_items(held_out[held_out >= 0], self.shard.num_items)
        return touched_items(self.splits, self.items, held_out, self.shard.num_items)


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
    """(N,) for each training item one that its user never touched; see ``kernels.cohort.negatives_of``."""
    return negatives_of(cohort.histories, task_of(loss, seed, server_round), cohort.shard.num_items)


def contrastive_draws(
    cohort: Cohort, loss: LossOptions, seed: int, server_round: int, dim: int
) -> ContrastiveDraws | None:
    """For each training item another one of the same user and k that it never touched, drawn afresh each round.

    The other one is another item, however often the user came back to the first. A user with a single one
    has no positive and skips the task.
    """
    if not loss.contrastive_weight:
        return None
    task = task_of(loss, seed, server_round)
    splits, items = examples_of(cohort.histories, task, cohort.shard.num_items)
    keep = kept_coordinates(cohort, Stream.CONTRASTIVE_DROPOUT, task, splits, items.shape[1], dim)
    return ContrastiveDraws(torch.from_numpy(splits), torch.from_numpy(items), keep, task.dropped / DECISIONS)


def kept_coordinates(cohort: Cohort, stream: Stream, task: Task, splits: Ints, width: int, dim: int) -> Tensor | None:
    """(splits[-1], width, dim) bool: which coordinates dropout leaves of each user's examples, ``None``: all."""
    if not task.dropped:
        return None
    kept = dropout.kept_coordinates(
        task.seed, int(stream), task.server_round, cohort.users, splits, width, dim, task.dropped
    )
    return torch.from_numpy(kept)


def task_of(loss: LossOptions, seed: int, server_round: int) -> Task:
    """What compiled loops are to draw and sum in a round."""
    return Task(
        seed=seed,
        server_round=server_round,
        # Round 0 names the draw that is kept for the whole run.
        negatives_round=server_round if loss.negatives == "fresh" else 0,
        dropped=round(loss.dropout * DECISIONS),
        contrastive_weight=loss.contrastive_weight,
        contrastive_negatives=loss.contrastive_negatives,
        streams=STREAMS,
    )
