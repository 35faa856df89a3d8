"""Detection is counted as its definitions say."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.detection import DetectionTally, chain_verdict, detect, won_pairs
from strategies.rule import Verdict


def verdict(users: list[int], scores: list[float], dropped: set[int], rule: str = "rule") -> Verdict:
    kept = torch.tensor([user not in dropped for user in users])
    return Verdict(rule, torch.tensor(users), torch.tensor(scores, dtype=torch.float64), kept, {})


def test_precision_recall_and_false_positive_rate() -> None:
    found = detect(verdict([1, 2, 3, 4, 5, 6], [0.0] * 6, {1, 2, 5}), np.array([1, 5, 6, 99]))
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)
    assert found.false_positive_rate == pytest.approx(1 / 3)


@given(
    scores=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    guilty=st.lists(st.booleans(), min_size=20, max_size=20),
)
@settings(max_examples=80, deadline=None)
def test_auc_is_the_share_of_pairs_in_which_the_malicious_user_scores_higher(
    scores: list[int], guilty: list[bool]
) -> None:
    guilty = guilty[: len(scores)]
    pairs = [
        (a, b)
        for a, bad in zip(scores, guilty, strict=True)
        if bad
        for b, g in zip(scores, guilty, strict=True)
        if not g
    ]
    won = sum((a > b) + 0.5 * (a == b) for a, b in pairs)
    assert won_pairs(np.array(scores, dtype=float), np.array(guilty)) == (won, len(pairs))


def test_a_ratio_of_nothing_is_not_a_number() -> None:
    found = detect(verdict([1, 2], [0.0, 1.0], set()), np.array([], dtype=np.int64))
    assert math.isnan(found.precision)
    assert math.isnan(found.recall)
    assert math.isnan(found.auc)
    assert found.false_positive_rate == 0


def test_a_chain_drops_whom_any_of_its_rules_drops() -> None:
    outer = verdict([1, 2, 3, 4], [3, 2, 1, 0], {1}, "union")
    inner = verdict([2, 3, 4], [0, 0, 9], {4}, "multi-krum")
    both = chain_verdict([outer, inner])
    assert both.rule == "union+multi-krum"
    assert both.kept.tolist() == [False, True, True, False]


def test_a_run_sums_rounds_and_pairs_only_users_of_the_same_round() -> None:
    tally = DetectionTally()
    examples = np.array([10, 20, 30])
    tally = tally.plus([verdict([1, 2, 3], [5, 1, 2], {1})], np.array([1, 9], np.int64), examples)
    tally = tally.plus([verdict([4, 2, 3], [9, 9, 9], {4})], np.array([1, 9], np.int64), examples)
    tally = tally.plus([verdict([9, 2, 3], [0, -1, 1], {3})], np.array([1, 9], np.int64), examples)
    run = tally.by_rule["rule"]
    assert (run.true_positives, run.false_positives, run.false_negatives, run.true_negatives) == (1, 2, 1, 5)
    assert run.auc == pytest.approx((2 + 1) / 4)


def test_a_chain_and_its_rules_are_counted_apart() -> None:
    tally = DetectionTally()
    outer = verdict([1, 2, 3, 4], [3, 2, 1, 0], {1}, "union")
    inner = verdict([2, 3, 4], [0, 0, 9], {4}, "multi-krum")
    tally = tally.plus([outer, inner], np.array([1, 4]), np.array([1, 1, 1, 1]))
    found = tally.by_rule
    assert set(found) == {"union", "multi-krum", "union+multi-krum"}
    assert found["union"].recall == 0.5
    assert found["multi-krum"].recall == 1
    assert found["union+multi-krum"].recall == 1
    assert tally.plus([], np.array([1]), np.array([])) is tally


def test_wrong_exclusions_are_counted_by_the_number_of_interactions() -> None:
    tally = DetectionTally()
    users = list(range(100))
    examples = np.arange(100) // 2 + 1
    # Of the benign users the heaviest tenth is dropped; user 99 is malicious.
    tally = tally.plus([verdict(users, [0.0] * 100, set(range(90, 100)))], np.array([99], np.int64), examples)
    buckets = tally.buckets(5)
    assert sum(bucket.judged for bucket in buckets) == 99
    assert sum(bucket.excluded for bucket in buckets) == 9
    assert all(before.most < after.fewest for before, after in pairwise(buckets))
    assert max(bucket.judged for bucket in buckets) - min(bucket.judged for bucket in buckets) <= 3
    assert [bucket.excluded for bucket in buckets] == [0, 0, 0, 0, 9]
    assert buckets[-1].rate == pytest.approx(9 / buckets[-1].judged)
    assert DetectionTally().buckets() == []


def test_a_number_that_a_client_made_up_takes_no_memory() -> None:
    """Arrays as long as the largest number of interactions would have 16 gigabytes."""
    tally = DetectionTally()
    tally = tally.plus([verdict([1, 2, 3], [0.0] * 3, {3})], np.array([], np.int64), np.array([5, 7, 2**31 - 1]))
    assert (tally.judged, tally.excluded) == ({5: 1, 7: 1, 2**31 - 1: 1}, {2**31 - 1: 1})
    assert [(bucket.fewest, bucket.excluded) for bucket in tally.buckets(3)] == [(5, 0), (7, 0), (2**31 - 1, 1)]
