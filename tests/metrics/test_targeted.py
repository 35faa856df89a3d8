"""Exposure of target items against a reference that sorts every candidate of every user; who the targets are."""

import math

import numpy as np
import pytest
import torch

from data.interactions import from_columns
from data.targets import target_items
from metrics.counting import count_limits
from metrics.ranked import Ranked
from metrics.ranking import Ranking
from metrics.targeted import TargetRanking
from protocol.admission import UnreadableError
from protocol.messages import counts_content, read_counts
from settings.options import OptionError

USERS, ITEMS, TARGETS = 23, 40, (3, 17)


def test_exposure_is_that_of_sorting_all_candidates() -> None:
    random = np.random.default_rng(4)
    # Small integers, so that many scores tie.
    scores = torch.from_numpy(random.integers(-6, 7, (USERS, ITEMS)).astype(np.float32))
    known = random.random((USERS, ITEMS)) < 0.3
    held_out = torch.zeros(USERS, dtype=torch.int64)
    ranked = Ranked(
        torch.arange(USERS), held_out, held_out, held_out + 1, scores, torch.from_numpy(np.stack(np.nonzero(known)))
    )
    metric = TargetRanking(TARGETS)
    counts = metric.count(ranked)
    assert len(counts) == metric.length(ITEMS)
    assert int(counts.sum()) == len(TARGETS) * USERS
    found = metric.values(counts.tolist())
    ranks: dict[int, list[int]] = {target: [] for target in TARGETS}
    for user in range(USERS):
        candidates = [item for item in range(ITEMS) if not known[user, item]]
        for target in set(TARGETS) & set(candidates):
            order = sorted(candidates, key=lambda item: (-float(scores[user, item]), item == target))
            ranks[target].append(order.index(target) + 1)
    assert 0 < sum(map(len, ranks.values())) < len(TARGETS) * USERS
    for cutoff in (5, 10, 20):
        exposed = [np.mean([rank <= cutoff for rank in of_one]) for of_one in ranks.values()]
        gains = [np.mean([(rank <= cutoff) / math.log2(rank + 1) for rank in of_one]) for of_one in ranks.values()]
        assert found[f"er@{cutoff}"] == pytest.approx(np.mean(exposed))
        assert found[f"target-ndcg@{cutoff}"] == pytest.approx(np.mean(gains))
    assert found["target-rank"] == pytest.approx(np.mean([np.mean(of_one) for of_one in ranks.values()]))


def test_targets_are_named_by_id_or_drawn_from_what_few_touched() -> None:
    items = np.repeat(np.arange(10, 20), np.arange(1, 11))
    users = np.arange(len(items)) % 7
    data = from_columns("made", users, items, np.arange(len(items)))
    assert target_items("", data, 0) == ()
    assert target_items("19, 10", data, 0) == (0, 9)
    assert target_items("coldest:3", data, 0) == (0, 1, 2)
    drawn = {target_items("random:2", data, seed) for seed in range(20)}
    assert len(drawn) > 1
    assert all(set(found) <= set(range(5)) for found in drawn)
    for wrong in ("99", "random:6", "coldest:0"):
        with pytest.raises(OptionError, match="target-items"):
            target_items(wrong, data, 0)


def test_a_node_counts_each_target_at_most_once_a_user() -> None:
    expected = {
        name: limits
        for name, limits in count_limits((Ranking(), TargetRanking(TARGETS)), ITEMS).items()
        if name == "test/targets"
    }
    honest = torch.zeros(len(TARGETS), ITEMS + 1, dtype=torch.int64)
    honest[:, 7] = USERS
    read_counts(counts_content({"test/targets": honest.flatten()}, 1), expected, 1, USERS)
    # The same sum, but all of it for one target.
    hostile = torch.zeros_like(honest)
    hostile[0, 1] = hostile[0, 2] = USERS
    with pytest.raises(UnreadableError, match="test/targets"):
        read_counts(counts_content({"test/targets": hostile.flatten()}, 1), expected, 1, USERS)
