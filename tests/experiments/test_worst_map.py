"""The map of worst attacks: every run has its own baseline, each cell the attack that costs most."""

import numpy as np
import pytest

from experiments.__main__ import _grids, parser
from experiments.papers.results import draw, sheet_of
from experiments.papers.tables import MINUS
from experiments.runner.completion import Completion
from experiments.runner.grid import Plan
from experiments.runner.worst_map import SHARES, worst_map

PLAN = Plan(dataset="synthetic", rounds=6)
LOSSES = {"Fang": 0.1, "LIE": 0.2, "ClusterAttack": 0.4}


def _completion(grid, left_out=()) -> Completion:
    """HR@5 is 0.04 without an attack; each attack costs its share of it, at 5 % malicious users LIE alone does."""
    summaries = {}
    for entry in grid.entries:
        loss = LOSSES.get(entry.labels[2], 0.0)
        loss = loss if entry.labels[1] != "5 %" or entry.labels[2] == "LIE" else 0.0
        value = {"hr@5": 0.04 * (1 - loss)}
        if entry.labels not in left_out:
            summaries |= {key: {"test": value, "test_last_five": value, "seconds": 1.0} for key in entry.cells}
    return Completion(summaries, {})


def test_each_run_is_compared_with_one_that_evaluates_the_same_users():
    """Up to 5 % malicious users these are the same, beyond that those who are left."""
    grid = worst_map(PLAN)
    for entry in grid.entries:
        options = entry.cells[0].options
        honest = grid.entries[entry.baseline].cells[0].options
        assert (honest["attack"], honest["defense"]) == ("none", "none")
        counted = [max(0.05, one["malicious-fraction"]) for one in (options, honest)]
        assert counted[0] == counted[1]
    assert len(grid.cells) == len(grid.entries)


def test_each_cell_is_the_worst_attack_and_the_first_column_the_defense_alone(tmp_path):
    grid = worst_map(PLAN)
    made = sheet_of(grid, _completion(grid), tmp_path)
    assert made.columns == ["defense", "0 %", *(f"{100 * share:g} %" for share in SHARES)]
    by_share = dict(zip(made.columns, made.rows[-1], strict=True))
    assert by_share["1 %"] == f"{MINUS}40.0 % ClusterAttack"
    assert by_share["5 %"] == f"{MINUS}20.0 % LIE"
    assert by_share["0 %"] == "+0.0 %"
    assert "missing" not in made.markdown()
    assert min(record["change"] for record in made.records) == pytest.approx(-0.4)


def test_what_is_missing_is_said_and_left_blank(tmp_path):
    grid = worst_map(PLAN)
    absent = {entry.labels for entry in grid.entries if entry.labels[:2] == ("Krum", "1 %")}
    made = sheet_of(grid, _completion(grid, absent), tmp_path)
    krum = next(row for row in made.rows if row[0] == "Krum")
    assert dict(zip(made.columns, krum, strict=True))["1 %"] == "—"
    assert "6 of 249 runs are missing" in made.markdown()


def test_the_heat_map_shows_loss_and_name(tmp_path):
    grid = worst_map(PLAN)
    paths = draw(grid, _completion(grid), tmp_path, tmp_path)
    assert {path.suffix for path in paths} == {".png", ".svg"}
    text = (tmp_path / "worst-case-heatmap.svg").read_text()
    assert "ClusterAttack" in text
    assert "-40 %" in text


def test_the_command_takes_it_with_the_plans_notes():
    asked = parser().parse_args(["worst-case", "--heatmap", "--rounds", "60", "--set", "clients-per-round=10"])
    [grid] = _grids(asked)
    assert grid.title.endswith(", 60 rounds")
    assert "All runs with clients-per-round = 10." in grid.notes
    assert np.unique([cell.options["clients-per-round"] for cell in grid.cells]).tolist() == [10]
