"""Federated evaluation against a slow reference that sorts every candidate of every user."""

import math

import numpy as np
import pytest
import torch

from data.interactions import from_columns, leave_one_out
from data.shard import Shard, shard_of
from metrics.ranked import HeldOut, Ranked, ranked
from metrics.ranking import Ranking, ranking_metrics


def a_shard(num_users: int, num_items: int, seed: int, repeats: bool):
    random = np.random.default_rng(seed)
    users, items = [], []
    for user in range(num_users):
        count = int(random.integers(3, num_items // 2))
        users += [user] * count
        items += random.choice(num_items, count, replace=repeats).tolist()
    # One more user who touches everything, so that every item exists.
    users += [num_users] * num_items
    items += list(range(num_items))
    data = from_columns("made", np.array(users), np.array(items), np.arange(len(users)))
    return shard_of(leave_one_out(data), np.arange(num_users))


def blocks(shard: Shard, table, vectors, part: str = "test") -> list[Ranked]:
    """The shard's users with their held-out items ranked."""
    valid, test = shard.valid.astype(np.int64), shard.test.astype(np.int64)
    targets, known = (valid, np.full(len(shard), -1)) if part == "valid" else (test, valid)
    items = shard.train_items.astype(np.int64)
    return list(ranked(table, vectors, HeldOut(shard.users, shard.train_splits, items, targets, known)))


def histogram_of(found: list[Ranked]) -> torch.Tensor:
    return torch.stack([Ranking().count(block) for block in found]).sum(0)


def slow_metrics(table, vectors, shard, part: str) -> dict[str, float]:
    """HR and NDCG by sorting each user's candidates, the held-out item last among equals."""
    totals: dict[str, float] = {}
    for k in range(len(shard)):
        train = set(shard.train_items[shard.train_splits[k] : shard.train_splits[k + 1]].tolist())
        target = int(shard.valid[k] if part == "valid" else shard.test[k])
        masked = train if part == "valid" else train | {int(shard.valid[k])}
        candidates = [item for item in range(shard.num_items) if item == target or item not in masked]
        scores = (table @ vectors[k]).tolist()
        order = sorted(candidates, key=lambda item: (-scores[item], item == target))
        rank = order.index(target) + 1
        for cutoff in (5, 10, 20):
            totals[f"hr@{cutoff}"] = totals.get(f"hr@{cutoff}", 0.0) + (rank <= cutoff)
            gain = 1 / math.log2(rank + 1) if rank <= cutoff else 0.0
            totals[f"ndcg@{cutoff}"] = totals.get(f"ndcg@{cutoff}", 0.0) + gain
    return {name: total / len(shard) for name, total in totals.items()}


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("part", ["valid", "test"])
def test_metrics_are_those_of_sorting_all_candidates(part: str, repeats: bool) -> None:
    shard = a_shard(37, 60, seed=5, repeats=repeats)
    random = np.random.default_rng(1)
    # Small integers, so that many scores tie and none depends on rounding.
    table = torch.from_numpy(random.integers(-2, 3, (shard.num_items, 4)).astype(np.float32))
    vectors = torch.from_numpy(random.integers(-2, 3, (len(shard), 4)).astype(np.float32))
    histogram = histogram_of(blocks(shard, table, vectors, part))
    assert int(histogram.sum()) == len(shard)
    assert ranking_metrics(histogram.tolist()) == pytest.approx(slow_metrics(table, vectors, shard, part), abs=1e-12)


def test_a_model_whose_scores_are_all_equal_gets_nothing() -> None:
    shard = a_shard(30, 80, seed=2, repeats=False)
    histogram = histogram_of(blocks(shard, torch.zeros(shard.num_items, 4), torch.ones(len(shard), 4)))
    assert set(ranking_metrics(histogram.tolist()).values()) == {0.0}


def test_metrics_by_hand() -> None:
    """Ranks 1, 3, 6 and one beyond 20: HR@5 = 2/4, NDCG@5 = (1 + 1/2)/4; at 10 rank 6 adds 1/log2(7)."""
    histogram = [0] * 21
    for rank in (1, 3, 6, 21):
        histogram[rank - 1] += 1
    metrics = ranking_metrics(histogram)
    assert metrics["hr@5"] == 0.5
    assert metrics["ndcg@5"] == pytest.approx(1.5 / 4)
    assert metrics["hr@10"] == 0.75
    assert metrics["ndcg@10"] == pytest.approx((1.5 + 1 / math.log2(7)) / 4)
