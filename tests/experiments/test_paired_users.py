"""Two runs user by user: against the published metrics, McNemar's formula and a bootstrap over users."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.papers.paired_users import PairedUsers, hits, paired_users, users_sheet
from server.simulation import simulate


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run without training to speak of, and one that learned."""
    folder = str(tmp_path_factory.mktemp("paired"))
    options = {"engine": "local", "num-nodes": 2, "checkpoint-every": 8, "tracker": "none", "output-dir": folder}
    return [simulate({**options, "num-server-rounds": n, "eval-every": n, "learning-rate": 0.02})[0] for n in (2, 40)]


def test_the_shares_are_those_that_the_runs_reported(runs: list[Path]) -> None:
    for run in runs:
        told = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        assert np.mean(list(hits(run).values())) == pytest.approx(told["test"]["hr@5"])
    found = paired_users(*runs)
    first, second = (np.mean(list(hits(run).values())) for run in runs)
    assert found.difference == pytest.approx(second - first)
    assert found.both + found.first + found.second <= found.users


def test_a_run_beside_itself_differs_in_nobody(runs: list[Path]) -> None:
    found = paired_users(runs[1], runs[1])
    assert (found.first, found.second, found.difference, found.half, found.p_value) == (0, 0, 0.0, 0.0, 1.0)


def test_p_is_mcnemars() -> None:
    """Of 10 discordant users 1 is the first's: p = 2 · (C(10, 0) + C(10, 1)) / 2¹⁰."""
    assert PairedUsers(500, 30, 1, 9).p_value == pytest.approx(2 * 11 / 1024)


def test_the_interval_is_that_of_a_bootstrap_over_users() -> None:
    found, random = PairedUsers(2000, 60, 40, 100), np.random.default_rng(0)
    changes = np.repeat([0, -1, 1], [1860, 40, 100])
    means = changes[random.integers(0, 2000, (4000, 2000))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    # The quantiles of 4,000 samples are known to about 3 % of the interval's half.
    assert low == pytest.approx(found.difference - found.half, abs=0.08 * found.half)
    assert high == pytest.approx(found.difference + found.half, abs=0.08 * found.half)


def test_the_table_says_what_the_interval_is_of(runs: list[Path]) -> None:
    text = users_sheet(*runs).markdown()
    assert "another draw of users" in text
    assert "McNemar" in text
