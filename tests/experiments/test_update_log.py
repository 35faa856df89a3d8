"""Recorded rounds hold what the server saw, so that offline judging repeats the run's own verdicts."""

import numpy as np
import pytest
import torch

from experiments.papers.replay import replay
from server.results.update_log import parse_rounds, recorded_rounds
from settings.options import OptionError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("10", [10, 20, 30]),
        ("7-9", [7, 8, 9]),
        ("5-25/10", [5, 15, 25]),
        ("30, 1-2", [1, 2, 30]),
    ],
)
def test_which_rounds_are_recorded(text, expected):
    rounds = parse_rounds(text)
    assert [number for number in range(1, 31) if number in rounds] == expected


@pytest.mark.parametrize("text", ["x", "0", "-5", "9-7", "1-9/0", "10/2", "1-2-3"])
def test_nonsense_is_refused(text):
    with pytest.raises(OptionError, match="record-updates"):
        parse_rounds(text)


def test_recorded_rounds_are_those_asked_for_with_everybody_who_came(attacked_run, attacked_rounds):
    recorded = list(recorded_rounds(attacked_run))
    assert [one.server_round for one in recorded] == [2, 4, 6]
    for one in recorded:
        line = attacked_rounds[one.server_round - 1]
        assert one.updates.users.tolist() == line["users"]
        assert one.malicious.tolist() == line["malicious"]
        assert one.model.round == one.server_round - 1


def test_the_recorded_model_is_the_one_before_the_step(attacked_run):
    """Adam's moments of a recorded round, stepped once more, lead on: an item nobody touched decays by β₁ alone."""
    second, fourth = list(recorded_rounds(attacked_run))[:2]
    assert second.model.round < fourth.model.round
    assert not torch.equal(second.model.items, fourth.model.items)
    assert bool((second.model.items_moments.second >= 0).all())


def test_a_replay_with_the_runs_defense_drops_whom_the_run_dropped(attacked_run, attacked_rounds):
    found = replay(attacked_run, "union+norm-bound")
    lines = [line for line in attacked_rounds if line["round"] in (2, 4, 6)]
    dropped = [set(line["rules"]["union"]["filtered"]) for line in lines]
    guilty = [set(line["malicious"]) for line in lines]
    union = found.by_rule["union"]
    assert found.rounds == 3
    assert union.true_positives == sum(len(a & b) for a, b in zip(dropped, guilty, strict=True))
    assert union.false_positives == sum(len(a - b) for a, b in zip(dropped, guilty, strict=True))
    assert union.false_negatives == sum(len(b - a) for a, b in zip(dropped, guilty, strict=True))


def test_a_replay_with_another_defense_judges_the_same_users(attacked_run, attacked_rounds):
    found = replay(attacked_run, "multi-krum", {"krum-num-malicious-nodes": 5}).by_rule["multi-krum"]
    users = sum(len(line["users"]) for line in attacked_rounds if line["round"] in (2, 4, 6))
    judged = found.true_positives + found.false_positives + found.false_negatives + found.true_negatives
    assert judged == users
    assert found.true_positives + found.false_positives == 15


def test_a_run_without_recorded_rounds_says_what_to_do(attacked_run, tmp_path):
    (tmp_path / "config.json").write_text((attacked_run / "config.json").read_text())
    with pytest.raises(OptionError, match="record-updates"):
        replay(tmp_path, "union")


def test_every_users_score_is_written_in_the_order_of_the_users(attacked_rounds):
    for line in attacked_rounds:
        union = line["rules"]["union"]
        values = union["mean_uniformity"] - np.asarray(union["scores"])
        assert len(values) == len(line["users"])
        assert values.min() == pytest.approx(union["min_uniformity"], rel=1e-4)
        assert values.max() == pytest.approx(union["max_uniformity"], rel=1e-4)
        left = len(line["users"]) - len(union["filtered"])
        assert len(line["rules"]["norm-bound"]["scores"]) == left
