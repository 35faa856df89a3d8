"""The commands as a person types them: the demo, a grid that is interrupted and goes on, the files they leave."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.__main__ import main, parser
from experiments.papers.results import draw, sheet_of, write
from experiments.runner.cell import _source, finished
from experiments.runner.choices import place_of, plan_of
from experiments.runner.completion import Completion
from experiments.runner.grid import Plan
from experiments.runner.grids import GRIDS, grids_of
from experiments.runner.pool import run_cells

PROJECT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
TINY = ["--dataset", "synthetic", "--rounds", "4", "--jobs", "2", "--set", "clients-per-round=10"]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments", *arguments]


def _run(*arguments: str, expected: int = 0) -> str:
    done = subprocess.run(
        _command(*arguments), cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout


def _workers(marker: str) -> list[int]:
    """Processes whose working grid is ``marker``: they have its folder's files open or among their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            opened = [os.readlink(link) for link in (process / "fd").iterdir()]
            if any(marker in target for target in opened):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_the_demo_shows_three_runs_and_where_they_are(tmp_path):
    text = _run("demo", "--rounds", "12", "--output", str(tmp_path))
    [folder] = tmp_path.iterdir()
    assert str(folder) in text
    summaries = [json.loads(path.read_text()) for path in folder.glob("*/summary.json")]
    assert len(summaries) == 3
    for summary in summaries:
        assert summary["status"] == "completed"
        assert f"{summary['test_last_five']['hr@5']:.4f}" in text
    assert "mean of the last 5 evaluations" in " ".join(text.split())


def test_an_interrupted_grid_goes_on_where_it_was(tmp_path):
    # Long enough that the second pair of runs is not over when the first one's end has been seen.
    arguments = ["table3", *TINY, "--rounds", "300", "--runs", str(tmp_path)]
    grid = subprocess.Popen(
        _command(*arguments),
        cwd=PROJECT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in a shell's background ignore Ctrl-C, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("*/summary.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    grid.send_signal(signal.SIGINT)
    _, errors = grid.communicate(timeout=60)
    assert grid.returncode == 130
    assert errors.strip().splitlines() == ["Interrupted: every process is ended; what was completed is kept."]
    assert _workers(str(tmp_path)) == []
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/summary.json")}
    assert 1 <= len(kept) < 5
    text = _run(*arguments)
    assert len(list(tmp_path.glob("*/summary.json"))) == 5
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for ending in ("md", "csv", "tex"):
        assert (tmp_path / "results" / f"table3.{ending}").exists()
    assert "| MultiKrum+UNION | ClusterAttack+CL | HR@5 | 0." in text
    assert "5 of 5 runs" in text


@pytest.mark.parametrize("name", ["figure2", "figure3", "figure4", "recovery", "worst-case", "ratios", "readings"])
def test_tables_and_figures_are_written_of_what_there_is(name, attacked_run, tmp_path):
    """Cells copied from one run: what is tested is that every grid comes to its files, not the numbers."""
    grid = GRIDS[name](Plan(dataset="synthetic", rounds=6))
    summary = json.loads((attacked_run / "summary.json").read_text())
    for cell in grid.cells:
        shutil.copytree(attacked_run, tmp_path / cell.name)
    completion = Completion(dict.fromkeys(grid.cells, summary), {})
    paths = write(sheet_of(grid, completion, tmp_path), tmp_path, name) + draw(grid, completion, tmp_path, tmp_path)
    assert all(path.stat().st_size > 0 for path in paths)
    figures = {path.suffix for path in paths} & {".png", ".svg"}
    assert figures == (set() if name in ("worst-case", "ratios", "readings") else {".png", ".svg"})


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*GRIDS, "all", "replay", "groups", "report", "demo"))
    assert "0.1, 0.5, 1 and 5 % malicious users" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["table1", "--seeds", "0"], "argument --seeds: 0: expected a whole number, at least 1."),
        (["demo", "--rounds", "0"], "argument --rounds: 0: expected a whole number, at least 1."),
        (["table1", "--model", "lenet"], "invalid choice: 'lenet' (choose from 'mf', 'sasrec', 'ncf')"),
        (["deep-poisoning", "--model", "mf"], "invalid choice: 'mf'"),
        (["table1", "--set", "cluster-adaptive=yes"], "cluster-adaptive=yes: expected true or false."),
        (["table1", "--set", "attacker-seed=3"], "--set attacker-seed: a table sets it itself; use --attacker-seeds."),
        (["table1", "--set", "seed=3"], "--set seed: a table sets it itself; use --seeds."),
        (["table1", "--set", "malicious-fraction=0.05"], "--set malicious-fraction: a table sets it itself"),
        (["figure3", "--set", "cluster-clusters=4"], "by which the lines of this table do not differ"),
        (["figure2", "--rounds-for", "krumm=3000"], "--rounds-for = 'krumm': expected one of fl-wbc, krum, multi-krum"),
        (["table5", "--add-attack", "cluster+cl"], "--add-attack = 'cluster+cl': expected a command that compares"),
    ],
)
def test_a_wrong_option_is_answered_with_a_sentence(arguments, sentence, capsys):
    try:
        status = main([*arguments, *([] if arguments[0] == "demo" else ["--dry-run"])])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    error = " ".join(capsys.readouterr().err.split())
    assert sentence in error
    assert "Traceback" not in error


def test_options_that_change_numbers_are_told_and_not_compared_with_the_paper(tmp_path):
    asked = parser().parse_args(["table1", "--rounds", "60", "--set", "clients-per-round=10", "--set", "tracker=none"])
    [grid] = grids_of(["table1"], plan_of(asked))
    assert not any(entry.printed for entry in grid.entries)
    assert "All runs with clients-per-round = 10." in grid.notes
    assert not any("tracker" in note for note in grid.notes)
    [shorter] = grids_of(["table1"], plan_of(parser().parse_args(["table1", "--rounds", "60"])))
    assert shorter.notes == ("After 60 rounds; what the paper prints is after 6000.",)
    [usual] = grids_of(["table1"], plan_of(parser().parse_args(["table1", "--set", "tracker=none"])))
    assert all(entry.printed for entry in usual.entries)


OWN_RULE = """
from strategies.rule import Mean

class Halved(Mean):
    name = "halved"

    def combine(self, updates, server):
        return super().combine(updates.scale(updates.num_examples * 0 + {factor}), server)
"""


def test_classes_of_ones_own_stand_beside_the_papers(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_halved.py").write_text(OWN_RULE.format(factor=0.5))
    arguments = ["defense-tax", *TINY, "--runs", str(tmp_path / "runs"), "--add-defense", "union+my_halved:Halved"]
    arguments += ["--set", f"plugin-dir={tmp_path}"]
    asked = parser().parse_args(arguments)
    place = place_of(asked)
    [grid] = grids_of(["defense-tax"], plan_of(asked))
    own = grid.entries[-1]
    assert own.labels == ("union+my_halved:Halved",)
    problems = run_cells(list(own.cells), place.runs, 1, Silent(), place.where)
    assert problems == {}
    assert finished(own.cells[0], place.runs)["status"] == "completed"
    # Another version of the class is another run.
    (tmp_path / "my_halved.py").write_text(OWN_RULE.format(factor=0.25))
    _source.cache_clear()
    assert finished(own.cells[0], place.runs) is None


class Silent:
    """Watches a grid and says nothing."""

    def began(self, cell):
        pass

    def at(self, cell, rounds, latest):
        pass

    def ended(self, cell, problem):
        pass


def test_options_that_change_no_numbers_reach_the_runs_and_not_their_names():
    asked = parser().parse_args(["table1", "--set", "checkpoint-every=7", "--set", "cluster-clusters=3"])
    assert place_of(asked).where["checkpoint-every"] == 7
    assert plan_of(asked).extra["cluster-clusters"] == 3
    cells = GRIDS["table1"](plan_of(asked)).cells
    assert cells[0] == GRIDS["table1"](Plan()).cells[0]
    assert cells[-1].options["cluster-clusters"] == 3


def test_a_dry_run_lists_the_runs_and_leaves_no_trace(tmp_path, capsys):
    assert main(["table3", *TINY, "--runs", str(tmp_path), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("to run, about") == 5
    assert list(tmp_path.iterdir()) == []
