"""Federated evaluation by the all-ranking protocol: each held-out item's rank among all the user's candidates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.shard import Shard
from models.recommenders.cohort import Cohort, cohort_of, sorted_unique
from protocol.requests import MOST_RANKS

BLOCK_SCORES = 1 << 21
"""Scores computed at a time."""

EVALUATED_AT_ONCE = 8192
"""Users whose vectors are made together; bounds memory, whatever the shard."""


def held_out_histograms(
    table: Tensor,
    shard: Shard,
    evaluated: NDArray[np.bool_],
    asked: NDArray[np.int64],
    vectors_of: Callable[[Cohort], tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    """Rank histograms of held-out items: ``valid`` and ``test``, each as ``rank_histogram`` gives it.

    Counts the users of the shard that are ``evaluated`` (n,) and among ``asked``, which is everybody where it is
    empty. ``vectors_of`` gives a cohort's user vectors (k, d) twice: for its validation items and for its test items.
    """
    users = shard.users[evaluated]
    if len(asked):
        users = np.intersect1d(users, asked)
    counts = {part: torch.zeros(MOST_RANKS + 1, dtype=torch.int64) for part in ("valid", "test")}
    for start in range(0, len(users), EVALUATED_AT_ONCE):
        cohort = cohort_of(shard, users[start : start + EVALUATED_AT_ONCE])
        for_valid, for_test = vectors_of(cohort)
        valid, test = cohort.valid, cohort.test
        nothing = np.full(len(valid), -1)
        counts["valid"] += rank_histogram(held_out_ranks(table, for_valid, cohort, valid, nothing)).cpu()
        counts["test"] += rank_histogram(held_out_ranks(table, for_test, cohort, test, valid)).cpu()
    return counts


def rank_histogram(ranks: Tensor) -> Tensor:
    """(21,) int64: how many ranks are 1, …, 20, and how many lie beyond.

    All that leaves a node; counts add up exactly, in whatever order nodes answer.
    """
    return torch.bincount(ranks.clamp(max=MOST_RANKS + 1) - 1, minlength=MOST_RANKS + 1)


def held_out_ranks(
    table: Tensor, vectors: Tensor, cohort: Cohort, targets: NDArray[np.int64], also_masked: NDArray[np.int64]
) -> Tensor:
    """Rank (n,) int64 of each user's held-out item among the items the user did not interact with.

    ``table`` (num_items, d), ``vectors`` (n, d); ``targets`` (n,): the held-out item; training items are
    masked, and ``also_masked`` (n,) where it is not −1. Ties count against the held-out item: its rank is
    1 + the number of other candidates that score at least as high. An item that the user repeated stays
    a candidate where it is the target.
    """
    num_items = len(table)
    # Blocks of one size, the last one padded: a product's rounding may depend on its shape.
    block = max(16, min(1024, BLOCK_SCORES // num_items))
    masked, offsets = _masked_items(cohort, targets, also_masked, num_items)
    masked = masked.to(table.device)
    goal = torch.from_numpy(targets).to(table.device)
    ranks = torch.empty(len(vectors), dtype=torch.int64, device=table.device)
    padded = vectors.new_zeros(block, vectors.shape[1])
    for start in range(0, len(vectors), block):
        stop = min(start + block, len(vectors))
        count = stop - start
        padded[:count] = vectors[start:stop]
        scores = (padded @ table.T)[:count]
        target = scores.gather(1, goal[start:stop].unsqueeze(1))
        at_least = (scores >= target).sum(1)
        part = slice(int(offsets[start]), int(offsets[stop]))
        row = masked[0, part] - start
        beaten = scores[row, masked[1, part]] >= target[row, 0]
        at_least.index_add_(0, row, -beaten.to(torch.int64))
        ranks[start:stop] = at_least
    return ranks


def _masked_items(
    cohort: Cohort, targets: NDArray[np.int64], also_masked: NDArray[np.int64], num_items: int
) -> tuple[Tensor, NDArray[np.int64]]:
    """Distinct (user position, item) pairs (2, m) that are no candidates, by user, and each user's offset (n+1,)."""
    users = np.arange(len(targets))
    extra = also_masked >= 0
    keys = np.concatenate([cohort.owner * num_items + cohort.items, users[extra] * num_items + also_masked[extra]])
    keys = sorted_unique(keys)
    keys = keys[keys % num_items != targets[keys // num_items]]
    offsets: NDArray[np.int64] = np.searchsorted(keys, np.arange(len(targets) + 1) * num_items)
    return torch.from_numpy(np.stack([keys // num_items, keys % num_items])), offsets
