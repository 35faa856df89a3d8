"""Federated evaluation on a node: its users' held-out items are ranked, and the metrics count."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.shard import Shard
from metrics.counting import add_counts, no_counts
from metrics.metric import Metric
from metrics.ranked import HeldOut, Scores, products, ranked
from models.recommenders.cohort import Cohort, cohort_of

EVALUATED_AT_ONCE = 8192
"""Users whose vectors are made together; bounds memory, whatever the shard."""


def held_out_counts(
    metrics: Sequence[Metric],
    table: Tensor,
    shard: Shard,
    evaluated: NDArray[np.bool_],
    asked: NDArray[np.int64],
    vectors_of: Callable[[Cohort], tuple[Tensor, Tensor]],
    scores_of: Scores = products,
) -> dict[str, Tensor]:
    """What the metrics count of the held-out items, by name (see ``metrics.counting.count_limits``).

    Counts the users of the shard that are ``evaluated`` (n,) and among ``asked``, which is everybody where it is
    empty. ``vectors_of`` gives a cohort's user vectors (k, d) twice: for its validation items and for its test items.
    """
    users = shard.users[evaluated]
    if len(asked):
        users = np.intersect1d(users, asked)
    counts = no_counts(metrics, len(table))
    for start in range(0, len(users), EVALUATED_AT_ONCE):
        cohort = cohort_of(shard, users[start : start + EVALUATED_AT_ONCE])
        for_valid, for_test = vectors_of(cohort)
        add_counts(counts, metrics, "valid", ranked(table, for_valid, _validation_items(cohort), scores_of))
        add_counts(counts, metrics, "test", ranked(table, for_test, _test_items(cohort), scores_of))
    return counts


def _validation_items(cohort: Cohort) -> HeldOut:
    nothing = np.full(len(cohort.users), -1)
    return HeldOut(cohort.users, cohort.splits, cohort.items, cohort.valid, nothing)


def _test_items(cohort: Cohort) -> HeldOut:
    return HeldOut(cohort.users, cohort.splits, cohort.items, cohort.test, cohort.valid)
