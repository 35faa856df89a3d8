"""The grid of image attacks: its runs, what is measured of them, and that it comes to its files."""

import json
import math
from pathlib import Path

import pytest

from experiments.__main__ import parser
from experiments.papers.poisoning import ATTACKS, DEFENSES, flagged, measure, stop_of
from experiments.papers.poisoning_figure import flagged_so_far
from experiments.papers.results import draw, sheet_of, write
from experiments.runner.cell import unavailable
from experiments.runner.choices import plan_of
from experiments.runner.completion import Completion, survey
from experiments.runner.grid import Plan
from experiments.runner.grids import GRIDS
from server.simulation import simulate

TINY = Plan(
    dataset="synthetic-images",
    model="lenet",
    rounds=4,
    extra={"num-clients": 12, "clients-per-round": 9, "local-epochs": 1},
)


def _write(folder: Path, curve: list[tuple[float, float]], rounds: list[dict] | None = None) -> Path:
    """A run directory with (success, accuracy) of rounds 1, 2, …"""
    folder.mkdir()
    lines = [
        {"round": number, "test": {"attack_success": success, "accuracy": accuracy}}
        for number, (success, accuracy) in enumerate(curve, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rounds or []))
    return folder


def _round(number: int, malicious: list[int], **filtered: list[int]) -> dict:
    rules = {rule: {"filtered": users} for rule, users in filtered.items()}
    return {"round": number, "users": [1, 2, 3, 4], "malicious": malicious, "rules": rules}


def test_the_command_has_the_papers_rounds_and_every_pair_can_be_run() -> None:
    plan = plan_of(parser().parse_args(["deep-poisoning", "--dataset", "mnist"]))
    grid = GRIDS["deep-poisoning"](plan)
    assert {cell.rounds for cell in grid.cells} == {100}
    assert {cell.options["model"] for cell in grid.cells} == {"lenet"}
    assert {entry.labels for entry in grid.entries} == {(attack, defense) for attack in ATTACKS for defense in DEFENSES}
    assert len(grid.cells) == len(ATTACKS) * len(DEFENSES)
    assert not [problem for cell in grid.cells if (problem := unavailable(cell))]
    assert {stop_of(cell) for cell in grid.cells if cell.options["attack"] != "none"} == {50}


def test_each_line_is_compared_with_the_run_without_attack_under_the_same_defense() -> None:
    grid = GRIDS["deep-poisoning"](Plan("mnist", "lenet", rounds=100))
    for entry in grid.entries:
        calm = grid.entries[entry.baseline]
        assert calm.labels == ("no attack", entry.labels[1])
        assert calm.cells[0].options["defense"] == entry.cells[0].options["defense"]


def test_a_run_without_attack_is_measured_when_the_others_stop(tmp_path: Path) -> None:
    grid = GRIDS["deep-poisoning"](Plan("mnist", "lenet", rounds=8, extra={"attack-stop": 6}))
    calm, flipped = grid.entries[0].cells[0], grid.entries[1].cells[0]
    curve = [(0.0, 0.5), *[(0.5, 0.9)] * 5, (0.5, 0.1), (0.5, 0.1)]
    for one in (calm, flipped):
        _write(tmp_path / one.name, curve)
    summary = {"seconds": 1.0}
    sheet = sheet_of(grid, Completion({calm: summary, flipped: summary}, {}), tmp_path)
    assert [row[4] for row in sheet.rows[:2]] == ["0.9000", "0.9000"]
    assert "stops after round 6." in sheet.markdown()


def test_what_a_run_shows_is_read_off_its_curve(tmp_path: Path) -> None:
    # Five rounds at 0.8 after one of warming up, then it falls by 0.2 a round.
    curve = [(0.0, 0.5), *[(0.8, 0.9)] * 5, (0.6, 0.9), (0.4, 0.9), (0.2, 0.9)]
    clean = _write(tmp_path / "clean", [(0.0, 0.95)] * 9)
    found = measure(_write(tmp_path / "run", curve), 6, clean)
    assert found.success == pytest.approx(0.8)
    assert (found.accuracy, found.clean) == (pytest.approx(0.9), pytest.approx(0.95))
    assert found.after == {1: pytest.approx(0.6)}
    assert found.life == pytest.approx(2.0)
    assert (found.caught, found.suspected) == (None, None)
    assert math.isinf(measure(tmp_path / "run", 9, None).life)
    # Of a success that never was nothing can be halved.
    assert math.isnan(measure(_write(tmp_path / "weak", [(0.05, 0.9)] * 5 + [(0.01, 0.9)] * 3), 5, None).life)
    # Nor of one that was gone before the attack was.
    assert math.isnan(measure(_write(tmp_path / "gone", [(0.9, 0.9)] * 4 + [(1e-4, 0.9)] * 4), 5, None).life)


def test_who_is_dropped_is_counted_while_the_attack_lasts(tmp_path: Path) -> None:
    rounds = [
        _round(1, [3], check=[3]),
        _round(2, [3, 4], check=[1], range=[4]),
        _round(3, [], check=[2]),
        _round(4, [3], check=[1, 2, 3]),
    ]
    run = _write(tmp_path / "run", [(0.0, 0.0)] * 4, rounds)
    caught, suspected = flagged(run, 3)
    assert caught == pytest.approx(2 / 3)
    assert suspected == pytest.approx(2 / 9)
    assert flagged_so_far(run, 3) == ([1, 2], [1.0, pytest.approx(2 / 3)])


def test_table_and_figure_are_written_of_what_there_is(tmp_path: Path) -> None:
    grid = GRIDS["deep-poisoning"](TINY)
    made = {("no attack", "no defense"), ("deep poisoning", "no defense"), ("model replacement", "distance range")}
    for entry in grid.entries:
        if entry.labels in made:
            one = entry.cells[0]
            where = {"engine": "local", "num-nodes": 1, "checkpoint-every": 0, "tracker": "none"}
            simulate({**one.options, **where, "output-dir": str(tmp_path), "run-name": one.name})
    completion = survey(grid.cells, tmp_path)
    assert len(completion.summaries) == len(made)
    sheet = sheet_of(grid, completion, tmp_path)
    lines = {(row[0], row[1]): row for row in sheet.rows}
    assert lines["deep poisoning", "no defense"][5][0] in "+−"
    assert lines["model replacement", "distance range"][-1].endswith("%")
    assert lines["label flipping", "Krum"][3] == "not run"
    paths = write(sheet, tmp_path / "results", grid.name) + draw(grid, completion, tmp_path, tmp_path / "results")
    assert {path.suffix for path in paths} == {".md", ".csv", ".tex", ".png", ".svg"}
    assert all(path.stat().st_size > 0 for path in paths)
