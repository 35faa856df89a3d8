"""Where a run's numbers go beside its own files: TensorBoard's event files, or MLflow's store."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from server.outcome import RoundOutcome
from server.results.observers import Observer
from settings.options import OptionError
from settings.run import TrackerName
from strategies.server_model import ServerModel

Line = Mapping[str, Any]


class Tracker(Protocol):
    """Is told what a run writes: its options, a line a round, a line an evaluation."""

    def begin(self, options: Mapping[str, Any], done: int) -> None:
        """The run's options; ``done`` rounds are behind it where it is resumed."""

    def scalars(self, server_round: int, values: Mapping[str, float]) -> None:
        """Some numbers of a round."""

    def close(self, status: str) -> None:
        """There will be no more; ``status``: the run's, see ``server.results.status``."""


class Nowhere:
    """Keeps nothing."""

    def begin(self, options: Mapping[str, Any], done: int) -> None: ...

    def scalars(self, server_round: int, values: Mapping[str, float]) -> None: ...

    def close(self, status: str) -> None: ...


class TensorBoard:
    """An event file in the run's directory, written by the ``tensorboard`` package without TensorFlow."""

    def __init__(self, directory: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        _wait_for_a_later_second(directory)
        self._event, self._session = event_pb2.Event, event_pb2.SessionLog
        self._summary = summary_pb2.Summary
        self._writer = EventFileWriter(str(directory))

    def begin(self, options: Mapping[str, Any], done: int) -> None:
        if done:
            # TensorBoard then forgets what an earlier file says of later rounds.
            start = self._session(status=self._session.START)
            self._writer.add_event(self._event(wall_time=time.time(), step=done + 1, session_log=start))

    def scalars(self, server_round: int, values: Mapping[str, float]) -> None:
        entries = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        summary = self._summary(value=entries)
        self._writer.add_event(self._event(wall_time=time.time(), step=server_round, summary=summary))

    def close(self, status: str) -> None:
        self._writer.close()


def _wait_for_a_later_second(directory: Path) -> None:
    """Return when the next event file's name sorts behind those that are there.

    TensorBoard reads event files in the order of their names, which begin with the second in which they were made; what
    follows in a name (host, process, counter) says nothing of the order.
    """
    names = [path.name.split(".") for path in directory.glob("events.out.tfevents.*")]
    seconds = [int(parts[3]) for parts in names if len(parts) > 3 and parts[3].isdecimal()]
    # A file from a clock that ran ahead is not waited for.
    latest = max((second for second in seconds if second <= time.time()), default=0)
    time.sleep(max(latest + 1 - time.time(), 0))


ENDINGS = {"completed": "FINISHED", "interrupted": "KILLED"}
"""What MLflow calls a run's status; any other is a run that failed."""


class MLflow:
    """A run in the SQLite store ``mlflow.db`` beside the run directories; rounds are written many at a time.

    A run that is resumed goes on in the same one, whose id is kept in its directory.
    """

    BATCH = 1000

    def __init__(self, directory: Path) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._param = Metric, Param
        self._client = MlflowClient(f"sqlite:///{directory.parent / 'mlflow.db'}")
        found = self._client.get_experiment_by_name("robust-fedrec")
        self._experiment = found.experiment_id if found else self._client.create_experiment("robust-fedrec")
        self._name, self._id = directory.name, directory / "mlflow-run-id"
        self._run, self._seen = "", dict[str, int]()
        self._waiting: list[Any] = []

    def begin(self, options: Mapping[str, Any], done: int) -> None:
        if done and self._id.exists():
            self._run = self._id.read_text(encoding="ascii")
            self._client.update_run(self._run, "RUNNING")
            # What comes again is the same to the bit.
            for name in self._client.get_run(self._run).data.metrics:
                self._seen[name] = max(told.step for told in self._client.get_metric_history(self._run, name))
            return
        self._run = self._client.create_run(self._experiment, run_name=self._name).info.run_id
        self._id.write_text(self._run, encoding="ascii")
        params = [self._param(name, str(value)) for name, value in options.items()]
        # A store takes a hundred parameters at a time.
        for start in range(0, len(params), 100):
            self._client.log_batch(self._run, params=params[start : start + 100])

    def scalars(self, server_round: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        new = {name: value for name, value in values.items() if server_round > self._seen.get(name, 0)}
        self._waiting += [self._metric(name, value, now, server_round) for name, value in new.items()]
        if len(self._waiting) >= self.BATCH - 100:
            self._write()

    def close(self, status: str) -> None:
        self._write()
        self._client.set_terminated(self._run, ENDINGS.get(status, "FAILED"))

    def _write(self) -> None:
        for start in range(0, len(self._waiting), self.BATCH):
            self._client.log_batch(self._run, metrics=self._waiting[start : start + self.BATCH])
        self._waiting.clear()


KINDS: dict[str, type[TensorBoard] | type[MLflow]] = {"tensorboard": TensorBoard, "mlflow": MLflow}


def tracker_kind(name: TrackerName) -> TrackerName:
    """What the option means: "auto" is TensorBoard where it is installed.

    Raises ``OptionError`` for a missing package.
    """
    chosen: TrackerName = (
        name if name != "auto" else "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
    )
    if chosen != "none" and not importlib.util.find_spec(chosen):
        raise OptionError(
            f"tracker = {name!r}: the package {chosen} is not installed; pip install {chosen}, or 'none'."
        )
    return chosen


def make_tracker(name: TrackerName, directory: Path) -> Tracker:
    """The tracker of a run. Raises ``OptionError`` for a missing package."""
    chosen = tracker_kind(name)
    return Nowhere() if chosen == "none" else KINDS[chosen](directory)


class Tracking(Observer):
    """Tells a tracker the numbers of a run. Raises ``OptionError`` for a missing package."""

    def __init__(self, name: TrackerName, directory: Path) -> None:
        self._kind, self._directory = tracker_kind(name), directory
        self._tracker: Tracker = Nowhere()

    @property
    def name(self) -> str:
        return f"tracker = {self._kind!r}"

    def begin(self, options: Line, done: int) -> None:
        # Made here, where whatever its store raises is not the run's end.
        self._tracker = make_tracker(self._kind, self._directory)
        self._tracker.begin(options, done)

    def round(self, before: ServerModel, outcome: RoundOutcome, line: Line) -> None:
        self._tracker.scalars(outcome.server_round, round_scalars(line))

    def evaluation(self, line: Line) -> None:
        self._tracker.scalars(line["round"], evaluation_scalars(line))

    def close(self, status: str) -> None:
        self._tracker.close(status)


def round_scalars(line: Line) -> dict[str, float]:
    """The numbers of a line of ``rounds.jsonl`` by name: train/loss, attack/clusters, union/filtered, bytes/up, …"""
    named = [
        ("train/loss", line["loss"]),
        ("train/updates", line["updates"]),
        ("train/rejected", len(line["rejected"])),
    ]
    named += [(f"attack/{name}", value) for name, value in line["attack"].items()]
    for rule, found in line["rules"].items():
        named += [(f"{rule}/{name}", value) for name, value in _numbers(found)]
    named += [("bytes/up", line["bytes_up"]), ("bytes/down", line["bytes_down"]), ("seconds/round", line["seconds"])]
    return _finite(named)


def evaluation_scalars(line: Line) -> dict[str, float]:
    """The numbers of a line of ``metrics.jsonl`` by name: valid/hr_at_5, test/ndcg_at_10, …; MLflow refuses "@"."""
    parts = ((part, line[part]) for part in ("valid", "test") if part in line)
    return _finite(
        (f"{part}/{name.replace('@', '_at_')}", value) for part, found in parts for name, value in found.items()
    )


def _numbers(found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        if name == "filtered":
            yield name, len(value)
        elif not isinstance(value, list):
            yield name, value


def _finite(named: Any) -> dict[str, float]:
    return {name: float(value) for name, value in named if value is not None and math.isfinite(value)}
