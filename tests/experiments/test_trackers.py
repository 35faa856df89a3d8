"""TensorBoard's event files, and MLflow's store, hold the numbers of the run's own files under the same names."""

import json
import subprocess
import sys

import pytest

from server.results.trackers import evaluation_scalars, make_tracker, round_scalars
from settings.options import OptionError


def _told(run):
    """Every scalar that a run's files hold: {(name, round): value}."""
    told = {}
    for name, scalars in (("rounds", round_scalars), ("metrics", evaluation_scalars)):
        for text in (run / f"{name}.jsonl").read_text().splitlines():
            line = json.loads(text)
            told |= {(tag, line["round"]): value for tag, value in scalars(line).items()}
    return told


def test_names_cover_what_the_report_shows(attacked_run):
    names = {name for name, _ in _told(attacked_run)}
    assert names >= {"train/loss", "attack/clusters", "attack/loss", "union/filtered", "bytes/up", "seconds/round"}
    assert names >= {"valid/hr_at_5", "test/ndcg_at_20"}


def test_tensorboard_holds_every_number(attacked_run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(attacked_run), {"scalars": 0})
    events.Reload()
    found = {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
    told = _told(attacked_run)
    assert set(found) == set(told)
    # Event files hold 32-bit floats.
    assert all(found[key] == pytest.approx(told[key], rel=1e-6) for key in told)


def test_a_resumed_run_replaces_what_was_written_past_its_checkpoint(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for done, rounds, value in ((0, 9, 1.0), (4, 6, 2.0)):
        tracker = make_tracker("tensorboard", tmp_path)
        tracker.begin({}, done)
        for server_round in range(done + 1, rounds + 1):
            tracker.scalars(server_round, {"train/loss": value})
        tracker.close("completed")
    events = accumulator.EventAccumulator(str(tmp_path), {"scalars": 0})
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 2.0), (6, 2.0)
    ]  # fmt: skip


def test_event_files_sort_in_the_order_in_which_they_were_made(tmp_path):
    """The names' last number is a counter of the process: ``.10`` sorts before ``.9``."""
    pytest.importorskip("tensorboard")
    names = []
    for _ in range(3):
        make_tracker("tensorboard", tmp_path).close("completed")
        names += sorted(path.name for path in tmp_path.iterdir() if path.name not in names)
    seconds = [name.split(".")[3] for name in names]
    assert names == sorted(names)
    assert len(set(seconds)) == 3


def test_none_writes_nothing(tmp_path):
    tracker = make_tracker("none", tmp_path)
    tracker.begin({}, 0)
    tracker.scalars(1, {"train/loss": 1.0})
    tracker.close("completed")
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="mlflow is not installed"):
        make_tracker("mlflow", tmp_path)
    make_tracker("auto", tmp_path).close("completed")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_tracks_nothing_imports_no_tracker():
    code = "import sys, server.training; sys.exit(bool({'tensorboard', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mlflow_holds_every_number_in_a_local_store(tmp_path):
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")
    directory = tmp_path / "a-run"
    directory.mkdir()
    tracker = make_tracker("mlflow", directory)
    tracker.begin({"seed": 3}, 0)
    for server_round in range(1, 21):
        tracker.scalars(server_round, {"train/loss": 1 / server_round, "test/hr_at_5": 0.5})
    tracker.close("completed")
    resumed = make_tracker("mlflow", directory)
    resumed.begin({"seed": 3}, 10)
    # Told of for the first time, though the round's loss was told before.
    resumed.scalars(15, {"valid/hr_at_5": 0.25})
    for server_round in range(11, 22):
        resumed.scalars(server_round, {"train/loss": 1 / server_round})
    resumed.close("interrupted")
    client = tracking.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("robust-fedrec").experiment_id])
    assert run.data.params["seed"] == "3"
    assert run.info.status == "KILLED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert len(history) == 21
    assert run.data.metrics["valid/hr_at_5"] == 0.25
    assert {entry.step: entry.value for entry in history} == {number: 1 / number for number in range(1, 22)}
