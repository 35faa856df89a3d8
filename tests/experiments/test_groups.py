"""Groups of users add up to everybody, and rank as the nodes themselves ranked."""

import itertools
import json

import numpy as np
import pytest

from experiments.papers.groups import Ranked, by_activity, by_popularity, coverage, rank_run
from server.simulation import simulate
from settings.options import OptionError


@pytest.fixture(scope="module")
def kept_run(tmp_path_factory):
    """A run whose nodes keep their users' vectors."""
    options = {"engine": "local", "num-nodes": 2, "num-server-rounds": 8, "eval-every": 8, "checkpoint-every": 8}
    options |= {"attacker-seed": 5}
    return simulate({**options, "output-dir": str(tmp_path_factory.mktemp("kept"))})[0]


def test_ranks_are_those_of_the_last_evaluation(kept_run):
    ranked = rank_run(kept_run)
    told = json.loads((kept_run / "metrics.jsonl").read_text().splitlines()[-1])["test"]
    users = len(ranked.rank)
    assert (ranked.rank <= 5).sum() == round(told["hr@5"] * users)
    assert (ranked.rank <= 20).sum() == round(told["hr@20"] * users)


def test_groups_hold_every_user_once(kept_run):
    ranked = rank_run(kept_run)
    for groups in (by_activity(ranked), by_popularity(ranked)):
        assert sum(group.users for group in groups) == len(ranked.rank)
        mean = sum(group.users * group.hit_ratio for group in groups) / len(ranked.rank)
        assert mean == pytest.approx((ranked.rank <= 5).mean())
        assert all(left.most < right.fewest for left, right in itertools.pairwise(groups))


def test_coverage_counts_distinct_items():
    top = np.array([[0, 1, 2, 3, 4], [0, 1, 2, 3, 5]])
    ranked = Ranked(np.array([1, 9]), top, np.array([3, 4]), np.array([0, 7]), np.arange(12))
    assert coverage(ranked) == 0.5
    assert [group.hit_ratio for group in by_activity(ranked)] == [1.0, 0.0]


def test_a_run_without_private_vectors_says_what_to_do(attacked_run):
    with pytest.raises(OptionError, match="checkpoint-every"):
        rank_run(attacked_run)
