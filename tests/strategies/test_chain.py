"""A defense is found by its name, gets its options, and says what is wrong with a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_updates import Shape, model_of, random_updates, view

from server.simulation import default_options
from settings.options import OptionError, Scalar
from strategies import CLIENT_SIDE, RULES
from strategies.chain import compose
from strategies.rule import Mean, Wrapper
from strategies.rules.krum import MultiKrum
from strategies.rules.median import Median
from strategies.rules.norm_bound import NormBound
from strategies.rules.trimmed_mean import TrimmedMean
from strategies.rules.union import Union

OWN_RULE = '''
from dataclasses import dataclass

import torch

from strategies.rule import Verdict, Wrapper


@dataclass(frozen=True)
class Options:
    most: int = 3


class FirstFew(Wrapper):
    """Keeps the first few updates."""

    name = "first-few"
    Options = Options

    def judge(self, updates, server):
        kept = torch.arange(len(updates)) < self.options.most
        return updates.select(kept), Verdict(self.name, updates.users, updates.norms(), kept, {})
'''


def test_a_chain_reads_from_the_outermost_inwards() -> None:
    rule = compose("union+norm-bound+multi-krum", {"norm-bound-threshold": 1.5}, 50, 0.05)
    assert isinstance(rule, Union)
    assert isinstance(rule.inner, NormBound)
    assert rule.inner.options.threshold == 1.5
    assert isinstance(rule.inner.inner, MultiKrum)
    assert isinstance(rule.inner.inner.inner, Mean)
    assert [type(compose(name, {}, 50, 0.01)).name for name in RULES] == list(RULES)


@pytest.mark.parametrize("defense", ["none", "", "mean", "fl-wbc"])
def test_no_defense_at_the_server_is_the_mean(defense: str) -> None:
    assert isinstance(compose(defense, {}, 50, 0.01), Mean)


def test_a_client_side_defense_is_skipped_in_a_chain() -> None:
    assert "fl-wbc" in CLIENT_SIDE
    rule = compose("fl-wbc+union+median", {}, 50, 0.01)
    assert isinstance(rule, Union)
    assert isinstance(rule.inner, Median)


@pytest.mark.parametrize(
    ("clients", "fraction", "expected"), [(50, 0.01, 1), (50, 0.05, 3), (100, 0.07, 7), (50, 0.0, 0)]
)
def test_the_assumed_attackers_are_the_expected_number_rounded_up(clients: int, fraction: float, expected: int) -> None:
    krum, trimmed = compose("multi-krum", {}, clients, fraction), compose("trimmed-mean", {}, clients, fraction)
    assert krum.options.num_malicious_nodes == expected
    assert isinstance(trimmed, TrimmedMean)
    assert trimmed.options.num_cut(clients) == expected
    assert compose("multi-krum", {"krum-num-malicious-nodes": 5}, clients, fraction).options.num_malicious_nodes == 5


@pytest.mark.parametrize(
    ("defense", "options", "clients"),
    [
        ("krum", {"krum-num-malicious-nodes": 4}, 10),
        ("multi-krum", {"krum-num-malicious-nodes": 24}, 50),
        ("per-item-krum", {"krum-num-malicious-nodes": 24}, 50),
        ("bulyan", {"bulyan-num-malicious-nodes": 12}, 50),
        ("trimmed-mean", {"trimmed-mean-num-malicious-nodes": 25}, 50),
        ("per-item-trimmed-mean", {"trimmed-mean-num-malicious-nodes": 25}, 50),
    ],
)
def test_too_many_assumed_attackers_are_refused(defense: str, options: dict[str, Scalar], clients: int) -> None:
    with pytest.raises(OptionError, match=f"num-malicious-nodes = .*at most .* {clients} clients per round"):
        compose(defense, options, clients, 0.0)
    fewer = {name: int(value) - 1 for name, value in options.items()}
    compose(defense, fewer, clients, 0.0)


@pytest.mark.parametrize(
    ("defense", "options", "text"),
    [
        ("multikrum", {}, "multi-krum"),
        ("median+krum", {}, "Put it last"),
        ("norm-bound", {"norm-bound-threshold": -1.0}, "norm-bound-threshold"),
        ("norm-bound", {"norm-bound-threshold": "big"}, "a number"),
        ("trimmed-mean", {"trimmed-mean-beta": 0.5}, "less than 0.5"),
        ("union", {"union-num-items": 1}, "union-num-items"),
        ("bulyan", {"bulyan-selection-rule": "best"}, "multi-krum"),
        ("support-bound", {"support-bound-action": "scold"}, "thin"),
        ("no_such_module:Rule", {}, "plugin-dir"),
        ("strategies.rule:Nothing", {}, "cannot load"),
        ("strategies.rule:Verdict", {}, "Expected a subclass of strategies.rule.Rule"),
    ],
)
def test_a_wrong_name_or_option_is_explained(defense: str, options: dict[str, Scalar], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        compose(defense, options, 50, 0.01)


def test_a_rule_of_the_users_own_gets_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rules.py").write_text(OWN_RULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    updates = random_updates(Shape(0, 9, 5, 2, 0, 0.5))
    model = model_of(Shape(0, 9, 5, 2, 0, 0.5))
    for name, options, kept in (("my_rules:FirstFew", {}, 3), ("my_rules:FirstFew", {"first-few-most": 5}, 5)):
        rule = compose(f"{name}+multi-krum", options, 50, 0.01)
        assert isinstance(rule, Wrapper)
        verdicts = rule.aggregate(updates, view(model)).verdicts
        assert [verdict.rule for verdict in verdicts] == ["first-few", "multi-krum"]
        assert int(verdicts[0].kept.sum()) == kept
        assert verdicts[1].users.tolist() == updates.users[:kept].tolist()


def test_every_option_of_a_rule_has_a_usable_default() -> None:
    defaults = default_options()
    for name in RULES:
        compose(name, defaults, 50, 0.05)
