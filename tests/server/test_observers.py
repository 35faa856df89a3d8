"""What watches a run never ends it; what the run would lose does."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from server.results.observers import MOST_FAILURES, Observer, Observers
from server.results.storage import StorageError
from server.results.trackers import Nowhere
from server.simulation import simulate

OPTIONS: dict[str, Any] = {
    "engine": "local",
    "num-nodes": 2,
    "num-server-rounds": 4,
    "eval-every": 2,
    "clients-per-round": 20,
    "embedding-dim": 8,
    "tracker": "none",
    "checkpoint-every": 0,
}


class Locked(Nowhere):
    """A tracker whose store is locked by another program, from ``begin`` on or from the first round on."""

    begins = True

    def begin(self, options: Mapping[str, Any], done: int) -> None:
        if not self.begins:
            raise sqlite3.OperationalError("database is locked")

    def scalars(self, server_round: int, values: Mapping[str, float]) -> None:
        raise sqlite3.OperationalError("database is locked")

    def close(self, status: str) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("begins", [True, False])
def test_a_tracker_that_fails_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, begins: bool
) -> None:
    monkeypatch.setattr("server.results.trackers.make_tracker", lambda name, directory: Locked())
    monkeypatch.setattr(Locked, "begins", begins)
    directory, summary = simulate({**OPTIONS, "output-dir": str(tmp_path)})
    assert summary["status"] == "completed"
    assert len((directory / "rounds.jsonl").read_text().splitlines()) == 4
    assert json.loads((directory / "summary.json").read_text()) == summary
    assert caplog.text.count("database is locked") == 1
    assert "what it keeps has gaps" in caplog.text


def test_updates_that_cannot_be_kept_end_the_run_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.results.update_log.write_atomically", full)
    with pytest.raises(StorageError, match="No space left"):
        simulate({**OPTIONS, "output-dir": str(tmp_path), "record-updates": "2"})


class Counting(Observer):
    """Fails in some of its evaluations."""

    def __init__(self, fails: set[int]) -> None:
        self.told: list[int] = []
        self._fails = fails

    def evaluation(self, line: Mapping[str, Any]) -> None:
        self.told.append(line["round"])
        if line["round"] in self._fails:
            raise ValueError("no")


def test_an_observer_that_keeps_failing_is_left_alone_and_others_hear_everything() -> None:
    now_and_then, broken, sound = Counting({3, 5, 9}), Counting(set(range(100))), Counting(set())
    observers = Observers([now_and_then, broken, sound])
    rounds = list(range(1, 3 * MOST_FAILURES))
    for number in rounds:
        observers.evaluation({"round": number})
    assert now_and_then.told == sound.told == rounds
    assert broken.told == rounds[:MOST_FAILURES]
    observers.close("completed")
