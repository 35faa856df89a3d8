"""A grid of one's own, the list of a folder's runs, and how many seeds an interval takes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from experiments.__main__ import main
from experiments.papers.results import draw, sheet_of, write
from experiments.papers.tables import lines_of
from experiments.report.listing import runs_sheet
from experiments.report.power import power_sheet, seeds_for
from experiments.runner.completion import Completion
from experiments.runner.grid import Plan
from experiments.runner.grids import GRIDS
from experiments.runner.own_grid import Axes, own_grid
from settings.options import OptionError

AXES = Axes(["cluster", "none"], ["none", "union+norm-bound"], ["ml-1m", "/data/own.csv"], ["mf", "sasrec"], 0.05)


def _summary(value: float) -> dict:
    metrics = {"hr@5": value, "ndcg@5": value}
    return {"status": "completed", "test": metrics, "test_last_five": metrics, "seconds": 1.0}


def test_every_combination_is_a_line_compared_with_its_own_honest_run() -> None:
    grid = own_grid(Plan(rounds=6, seeds=(0, 1)), AXES)
    assert len(grid.entries) == 2 * 2 * 2 * 2
    assert len(grid.cells) == 2 * len(grid.entries)
    for line in grid.entries:
        options, honest = line.cells[0].options, grid.entries[line.baseline].cells[0].options
        assert honest["attack"] == "none"
        assert all(options[name] == honest[name] for name in ("dataset", "model", "defense", "seed"))
        assert options["malicious-fraction"] == 0.05


def test_table_1s_runs_are_shared() -> None:
    grid = own_grid(Plan(), replace(AXES, datasets=["ml-1m"], models=["mf"], defenses=["none"], fraction=0.01))
    assert set(grid.cells) < set(GRIDS["table1"](Plan()).cells)


def test_without_an_honest_run_nothing_is_compared() -> None:
    grid = own_grid(Plan(rounds=6), replace(AXES, attacks=["cluster"]))
    assert {line.baseline for line in grid.entries} == {None}


def test_an_unknown_model_or_an_empty_axis_is_refused() -> None:
    with pytest.raises(OptionError, match="--models = 'fm': expected one of mf"):
        own_grid(Plan(), replace(AXES, models=["fm"]))
    with pytest.raises(OptionError, match="--attacks"):
        own_grid(Plan(), replace(AXES, attacks=[]))


def test_a_table_and_a_heat_map_are_written(tmp_path) -> None:
    grid = own_grid(Plan(rounds=6), AXES)
    values = {"none": 0.04, "cluster": 0.03}
    found = {cell: _summary(values[str(cell.options["attack"])]) for cell in grid.cells}
    completion = Completion(found, {})
    paths = write(sheet_of(grid, completion, tmp_path), tmp_path, grid.name)
    paths += draw(grid, completion, tmp_path, tmp_path)
    assert {path.suffix for path in paths} == {".md", ".csv", ".tex", ".png", ".svg"}
    assert "| own.csv | sasrec | no defense | ClusterAttack | HR@5 | 0.0300" in (tmp_path / "grid.md").read_text()
    # A quarter of 0.04 is lost.
    assert "−25 %" in (tmp_path / "grid.svg").read_text() or "-25 %" in (tmp_path / "grid.svg").read_text()


def test_the_command_lists_its_runs(tmp_path, capsys) -> None:
    asked = [
        "grid",
        "--attacks",
        "none,cluster",
        "--defenses",
        "none,median",
        "--dataset",
        "synthetic",
        "--rounds",
        "4",
    ]
    assert main([*asked, "--runs", str(tmp_path), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("to run, about") == 4


def test_a_folders_runs_are_listed_by_what_differs(tmp_path) -> None:
    for name, attack, value in (("a", "none", 0.04), ("b", "cluster", 0.03)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"options": {"attack": attack, "seed": 7}}))
        (tmp_path / name / "summary.json").write_text(json.dumps(_summary(value)))
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "config.json").write_text(json.dumps({"options": {"seed": 7}}))
    sheet = runs_sheet(tmp_path)
    assert sheet.columns == ["run", "status", "attack", "hr@5", "ndcg@5"]
    rows = {row[0]: row for row in sheet.rows}
    assert rows["b"] == ["b", "completed", "cluster", "0.0300", "0.0300"]
    assert rows["killed"][1] == "no summary"


@pytest.mark.parametrize(("deviation", "width"), [(3.0, 5.0), (8.0, 5.0), (1.0, 10.0)])
def test_the_seeds_are_the_fewest_that_make_the_interval_so_narrow(deviation: float, width: float) -> None:
    count = seeds_for(deviation, width)

    def width_of(seeds: int) -> float:
        return 2 * float(stats.t.ppf(0.975, seeds - 1)) * deviation / math.sqrt(seeds)

    assert width_of(count) <= width
    assert count == 2 or width_of(count - 1) > width
    assert seeds_for(1e6, 1e-3) is None


def test_the_deviation_is_that_of_the_paired_changes() -> None:
    grid = GRIDS["table1"](Plan(seeds=(0, 1, 2)))
    attacked = grid.entries[-1]
    values = dict(zip(attacked.cells, (0.030, 0.034, 0.029), strict=True))
    values |= dict(zip(grid.entries[0].cells, (0.040, 0.041, 0.038), strict=True))
    completion = Completion({cell: _summary(value) for cell, value in values.items()}, {})
    sheet = power_sheet(lines_of(grid, completion), "", 5.0)
    [record] = [record for record in sheet.records if record["metric"] == "hr@5"]
    changes = [100 * (ours / honest - 1) for ours, honest in ((0.030, 0.040), (0.034, 0.041), (0.029, 0.038))]
    assert record["deviation"] == pytest.approx(np.std(changes, ddof=1))
