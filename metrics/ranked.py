"""The all-ranking protocol: each held-out item's rank among all the items that its user did not interact with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.ragged import sorted_unique

Ints = NDArray[np.int64]

BLOCK_SCORES = 1 << 21
"""Scores computed at a time."""


@dataclass(frozen=True)
class HeldOut:
    """n users with one held-out item each.

    ``users`` (n,): indexes in the population; ``splits`` (n+1,) and ``items`` (N,): user k trained on
    ``items[splits[k]:splits[k+1]]``; ``targets`` (n,): the held-out items; ``known`` (n,): one more item that the user
    interacted with before, −1 for none.
    """

    users: Ints
    splits: Ints
    items: Ints
    targets: Ints
    known: Ints


@dataclass(frozen=True)
class Ranked:
    """Some users whose held-out items are ranked: what a metric counts.

    All tensors are on the model's device. ``users`` (n,) int64: indexes in the population; ``targets`` (n,) int64:
    the held-out items, and ``ranks`` (n,) int64 theirs, from 1; ``activity`` (n,) int64: how many training items each
    user has. ``all_scores`` (n, num_items) float32, and ``excluded`` (2, m) int64 the (position, item) pairs that are
    no candidates: a metric takes ``scores``.
    """

    users: Tensor
    targets: Tensor
    activity: Tensor
    ranks: Tensor
    all_scores: Tensor
    excluded: Tensor

    @property
    def num_items(self) -> int:
        """How many items there are."""
        return self.all_scores.shape[1]

    @cached_property
    def scores(self) -> Tensor:
        """(n, num_items) float32: each user's scores of all items, −∞ for what the user interacted with before."""
        scores = self.all_scores.clone()
        scores[self.excluded[0], self.excluded[1]] = -torch.inf
        return scores

    def top(self, length: int) -> Tensor:
        """(n, length) int64: the candidates with the highest scores, the best first; −1 where there are no more."""
        length, most = min(length, self.num_items), length
        best = self.scores.topk(length)
        items = best.indices.masked_fill(best.values == -torch.inf, -1)
        return torch.nn.functional.pad(items, (0, most - length), value=-1)


Scores = Callable[[Tensor, Tensor], Tensor]
"""(n, num_items) scores of an item table (num_items, d) for user vectors (n, d)."""


def products(table: Tensor, vectors: Tensor) -> Tensor:
    """Score each item by the product of its row with the user's vector."""
    return vectors @ table.T


def ranked(table: Tensor, vectors: Tensor, held_out: HeldOut, scores_of: Scores = products) -> Iterator[Ranked]:
    """Rank each user's held-out item, some users at a time.

    ``table`` (num_items, d), ``vectors`` (n, d): what ``scores_of`` scores the items with. Ties count against the
    held-out item: its rank is 1 + the number of other candidates that score at least as high. An item that the user
    repeated stays a candidate where it is the target. A user's numbers do not depend on who else is ranked.
    """
    num_items = len(table)
    # Blocks of one size, the last one padded: a product's rounding may depend on its shape.
    block = max(16, min(1024, BLOCK_SCORES // num_items))
    excluded, offsets = _excluded_items(held_out, num_items)
    excluded = excluded.to(table.device)
    columns = (held_out.users, held_out.targets, np.diff(held_out.splits))
    users, targets, activity = (torch.from_numpy(column).to(table.device) for column in columns)
    padded = vectors.new_zeros(block, vectors.shape[1])
    for start in range(0, len(vectors), block):
        stop = min(start + block, len(vectors))
        here, count = slice(start, stop), stop - start
        padded[:count] = vectors[here]
        scores = scores_of(table, padded)[:count]
        target = scores.gather(1, targets[here].unsqueeze(1))
        ranks = (scores >= target).sum(1)
        pairs = excluded[:, int(offsets[start]) : int(offsets[stop])]
        pairs = torch.stack([pairs[0] - start, pairs[1]])
        beaten = scores[pairs[0], pairs[1]] >= target[pairs[0], 0]
        ranks.index_add_(0, pairs[0], -beaten.to(torch.int64))
        yield Ranked(users[here], targets[here], activity[here], ranks, scores, pairs)


def _excluded_items(held_out: HeldOut, num_items: int) -> tuple[Tensor, Ints]:
    """Distinct (position, item) pairs (2, m) that are no candidates, by user, and each user's offset (n+1,)."""
    targets, users = held_out.targets, np.arange(len(held_out.targets))
    owner = np.repeat(users, np.diff(held_out.splits))
    extra = held_out.known >= 0
    keys = np.concatenate([owner * num_items + held_out.items, users[extra] * num_items + held_out.known[extra]])
    keys = sorted_unique(keys)
    keys = keys[keys % num_items != targets[keys // num_items]]
    offsets: Ints = np.searchsorted(keys, np.arange(len(targets) + 1) * num_items)
    return torch.from_numpy(np.stack([keys // num_items, keys % num_items])), offsets
