"""Groups of users add up to everybody, and rank as the nodes themselves ranked."""

import itertools
import json

import pytest

from experiments.papers.groups import break_down
from server.simulation import simulate
from settings.options import OptionError


@pytest.fixture(scope="module")
def kept_run(tmp_path_factory):
    """A run whose nodes keep their users' vectors."""
    options = {"engine": "local", "num-nodes": 2, "num-server-rounds": 8, "eval-every": 8, "checkpoint-every": 8}
    options |= {"attacker-seed": 5}
    return simulate({**options, "output-dir": str(tmp_path_factory.mktemp("kept"))})[0]


def test_metrics_are_those_of_the_last_evaluation(kept_run):
    told = json.loads((kept_run / "metrics.jsonl").read_text().splitlines()[-1])
    found = break_down(kept_run)
    assert {name: found.metrics["test"][name] for name in told["test"]} == told["test"]
    assert found.users == told["counted"]["test"]


def test_groups_hold_every_user_once(kept_run):
    found = break_down(kept_run)
    for groups in (found.activity, found.popularity):
        assert len(groups) > 1
        assert sum(group.users for group in groups) == found.users
        mean = sum(group.users * group.hit_ratio for group in groups) / found.users
        assert mean == pytest.approx(found.metrics["test"]["hr@5"])
        assert all(left.most < right.fewest for left, right in itertools.pairwise(groups))


def test_a_run_without_private_vectors_says_what_to_do(attacked_run):
    with pytest.raises(OptionError, match="checkpoint-every"):
        break_down(attacked_run)
