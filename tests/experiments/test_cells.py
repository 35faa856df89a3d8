"""A cell is its options: the same ones are the same run, other ones another, and half a run is none."""

import json
from pathlib import Path

from experiments.runner.cell import cell, finished, unavailable
from server.config import effective, server_config
from server.simulation import default_options

OPTIONS = {"dataset": "synthetic", "attack": "cluster", "malicious-fraction": 0.05, "num-server-rounds": 3}


def _pretend(runs: Path, one, status: str = "completed", **changed) -> None:
    directory = runs / one.name
    directory.mkdir(parents=True)
    used = effective(server_config({**default_options(), **one.options})) | changed
    (directory / "config.json").write_text(json.dumps({"options": used}))
    (directory / "summary.json").write_text(json.dumps({"status": status}))


def test_the_order_of_options_and_where_a_run_is_made_do_not_matter():
    turned = dict(reversed(OPTIONS.items()))
    assert cell(OPTIONS) == cell({**turned, "engine": "ray", "output-dir": "/elsewhere", "num-nodes": 9})


def test_every_other_option_makes_another_cell_and_another_directory():
    changed = [{"seed": 1}, {"num-server-rounds": 4}, {"defense": "union"}, {"cluster-clusters": 3}]
    names = {cell({**OPTIONS, **change}).name for change in [{}, *changed]}
    assert len(names) == 5


def test_a_completed_run_is_found_again(tmp_path):
    one = cell(OPTIONS)
    assert finished(one, tmp_path) is None
    _pretend(tmp_path, one)
    assert finished(one, tmp_path) == {"status": "completed"}
    assert finished(cell({**OPTIONS, "seed": 1}), tmp_path) is None


def test_an_interrupted_run_does_not_count(tmp_path):
    _pretend(tmp_path, cell(OPTIONS), status="interrupted")
    assert finished(cell(OPTIONS), tmp_path) is None


def test_a_run_made_under_other_defaults_does_not_count(tmp_path):
    _pretend(tmp_path, cell(OPTIONS), **{"union-gap-draws": 7})
    assert finished(cell(OPTIONS), tmp_path) is None


def test_what_cannot_be_run_is_said_before_anything_runs():
    assert unavailable(cell(OPTIONS)) is None
    assert "no-such-attack" in unavailable(cell({**OPTIONS, "attack": "no-such-attack"}))
    assert "no-such-option" in unavailable(cell({**OPTIONS, "no-such-option": 1}))
