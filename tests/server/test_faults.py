"""Nodes that die, stay silent or answer nonsense cost their updates of the round, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from safetensors.torch import load_file

import client.app
from metrics.metric import CountLimits
from protocol.messages import counts_content, read_counts
from server.config import server_config
from server.grids.local_grid import LocalGrid
from server.intake import Intake
from server.outcome import RoundOutcome
from server.recovery.checkpoint import checkpoint_files
from server.results.run_directory import make_run_directory
from server.results.tally import Tally
from server.simulation import PROJECT, default_options
from server.training import run_training

OPTIONS: dict[str, Any] = {
    "engine": "local",
    "num-nodes": 3,
    "num-server-rounds": 8,
    "eval-every": 4,
    "clients-per-round": 30,
    "embedding-dim": 8,
}

Answer = Callable[[Message, Context], Message]


def trained(tmp_path: Path, app: Answer, **options: Any) -> tuple[Path, list[dict[str, Any]], dict[str, Any]]:
    """A run on nodes that answer through ``app``: its directory, its rounds, its summary."""
    run_config = {**default_options(), **OPTIONS, "output-dir": str(tmp_path), **options}
    config = server_config(run_config)
    directory = make_run_directory(config)
    run_id = abs(hash(str(directory))) % (1 << 62)
    grid = LocalGrid(app, dict(run_config), config.options.num_nodes, str(directory / "nodes"), run_id)  # type: ignore[arg-type]
    summary = run_training(grid, config, directory)
    rounds = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    return directory, rounds, summary


def at(message: Message, kind: str, *rounds: int) -> bool:
    return message.metadata.message_type == kind and message.metadata.group_id in [str(number) for number in rounds]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_node_that_dies_costs_its_updates_of_the_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    def app(message: Message, context: Context) -> Message:
        dies = context.node_id == 2 and at(message, "train", 3, 4)
        if dies and when == "before":
            raise RuntimeError("died before training")
        reply = client.app.app(message, context)
        if dies:
            raise RuntimeError("died after training")
        return reply

    _, rounds, summary = trained(tmp_path, app)
    failed = {row["round"]: row["failed_nodes"] for row in rounds if row["failed_nodes"]}
    assert failed == {number: {"2": f"error 2: RuntimeError: died {when} training"} for number in (3, 4)}
    assert all(0 < row["updates"] < 30 if row["round"] in failed else row["updates"] == 30 for row in rounds)
    assert summary["status"] == "completed"
    assert summary["failures"] == {"error": 2}
    assert not summary["rejected"]
    # Said once, with its stack, and once more at the end: a run that goes on could seem to have gone well.
    assert caplog.text.count(f"Node 2 failed in round 3: error 2: RuntimeError: died {when} training") == 1
    assert "Node 2 failed in round 4" not in caplog.text
    assert f'raise RuntimeError("died {when} training")' in caplog.text
    assert "2 answers of nodes failed" in caplog.text


def test_a_message_that_comes_twice_is_trained_once(tmp_path: Path) -> None:
    def twice(message: Message, context: Context) -> Message:
        client.app.app(message, context)
        return client.app.app(message, context)

    once, _, _ = trained(tmp_path / "once", client.app.app)
    again, _, _ = trained(tmp_path / "twice", twice)
    assert torch.equal(items(once), items(again))


def items(directory: Path) -> torch.Tensor:
    return load_file(directory / "model.safetensors")["items"]


def test_a_round_without_enough_updates_is_skipped_and_the_model_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            raise RuntimeError("no")
        return client.app.app(message, context)

    directory, rounds, summary = trained(tmp_path, silent, **{"num-server-rounds": 3})
    assert summary["skipped_rounds"] == 3
    assert all(row["skipped"] and row["updates"] == 0 and row["loss"] is None for row in rounds)
    assert "Round 2 is skipped: 0 valid updates, fewer than min-updates = 1." in caplog.text
    untrained = trained(tmp_path / "b", client.app.app, **{"num-server-rounds": 1, "learning-rate": 1e-30})[0]
    assert torch.allclose(items(directory), items(untrained))


def test_a_node_that_keeps_failing_is_not_asked_any_more(tmp_path: Path) -> None:
    asked: list[str] = []

    def app(message: Message, context: Context) -> Message:
        if context.node_id == 3 and message.metadata.message_type != "query":
            asked.append(f"{message.metadata.message_type} {message.metadata.group_id}")
            raise RuntimeError("no")
        return client.app.app(message, context)

    _, rounds, summary = trained(tmp_path, app, **{"quarantine-after": 2})
    assert asked == ["train 1", "train 2"]
    assert [row["quarantined"] for row in rounds] == [[], [3], [], [], [], [], [], []]
    assert summary["quarantined"] == {"3": 2}


def test_an_evaluation_without_all_nodes_is_not_taken_for_the_best(tmp_path: Path) -> None:
    """Other users' metrics are no metrics of the model."""

    def app(message: Message, context: Context) -> Message:
        if context.node_id == 2 and at(message, "evaluate", 4, 8):
            raise RuntimeError("no")
        return client.app.app(message, context)

    directory, _, summary = trained(tmp_path, app, **{"num-server-rounds": 10, "eval-every": 2})
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    users = {line["round"]: line["of_users"] for line in lines}
    assert users[2] == users[6] == users[10] == 1000
    assert 0 < users[4] == users[8] < 1000
    assert summary["partial_evaluations"] == 2
    assert summary["best_round"] in (2, 6, 10)
    mean = sum(line["test"]["hr@5"] for line in lines if line["round"] in (2, 6, 10)) / 3
    assert summary["test_last_five"]["hr@5"] == pytest.approx(mean)


def test_what_a_node_counts_does_not_decide_which_evaluations_count(tmp_path: Path) -> None:
    """It may claim to have counted every user that it hosts, though some are never evaluated."""

    def app(message: Message, context: Context) -> Message:
        reply = client.app.app(message, context)
        if context.node_id == 1 and at(message, "evaluate", 4):
            counts = read_counts(reply.content, dict.fromkeys(("valid", "test"), CountLimits(21)), 4, 1000)
            more = {part: values + torch.eye(1, 21, dtype=torch.int64)[0] for part, values in counts.items()}
            reply = Message(counts_content(more, 4), reply_to=message)
        return reply

    _, _, summary = trained(tmp_path, app, **{"num-server-rounds": 8, "eval-every": 2})
    assert summary["partial_evaluations"] == 0
    assert summary["failed_answers"] == 0


def test_an_evaluation_goes_on_without_a_node_that_fails(tmp_path: Path) -> None:
    def app(message: Message, context: Context) -> Message:
        if context.node_id == 1 and message.metadata.message_type == "evaluate":
            return Message(RecordDict(), reply_to=message)
        return client.app.app(message, context)

    directory, _, summary = trained(tmp_path, app)
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert summary["status"] == "completed"
    assert all(list(line["failed_nodes"]) == ["1"] for line in lines)


CHILD = """
import json, sys
from server.simulation import simulate
simulate(json.loads(sys.argv[1]))
"""


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                found[int(folder.name)] = (parent, (folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def descendants(root: int) -> dict[int, str]:
    everything, found, new = processes(), {}, {root}
    while new:
        new = {pid for pid, (parent, _) in everything.items() if parent in new} - set(found)
        found.update({pid: everything[pid][1] for pid in new})
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@pytest.fixture
def on_ray(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(**options: Any) -> subprocess.Popen[bytes]:
        chosen = {**OPTIONS, "engine": "ray", "num-nodes": 2, "output-dir": str(tmp_path), "run-name": "run", **options}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, "-c", CHILD, json.dumps(chosen)]
        with (tmp_path / "output.txt").open("ab") as output:
            started.append(subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=output))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines that are there so far."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def test_ray_actors_and_the_whole_run_survive_kill_9(
    tmp_path: Path, on_ray: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """One run in which first an actor, then everything is killed; and it stops at Ctrl-C with all its processes."""
    options = {"num-server-rounds": 400, "eval-every": 5, "checkpoint-every": 5, "clients-per-round": 30}
    directory = tmp_path / "run"
    first = on_ray(**options)
    assert wait_for(lambda: len(lines_of(directory / "metrics.jsonl")) >= 1), (tmp_path / "output.txt").read_text()
    actors = [pid for pid, command in descendants(first.pid).items() if "NodeActor" in command]
    assert len(actors) == 2
    os.kill(actors[0], signal.SIGKILL)
    killed_after = len(lines_of(directory / "metrics.jsonl"))

    def recovered() -> bool:
        """The failed node was restarted and answers for all its users, and most rounds were whole."""
        rounds = lines_of(directory / "rounds.jsonl")
        failures = sum(bool(row["failed_nodes"]) for row in rounds)
        return 1 <= failures < len(rounds) / 2 and rounds[-1]["updates"] == 30

    assert wait_for(recovered)
    assert len(lines_of(directory / "metrics.jsonl")) > killed_after

    family = descendants(first.pid)
    first.kill()
    first.wait()
    assert wait_for(lambda: not any(alive(pid) for pid in family))
    rounds = lines_of(directory / "rounds.jsonl")
    failures = [row for row in rounds if row["failed_nodes"]]
    assert 1 <= len(failures) < len(rounds) / 2
    assert all("error 5" in reason for row in failures for reason in row["failed_nodes"].values())

    before = checkpoint_files(directory / "checkpoints")[-1]
    second = on_ray(**options, resume="latest")
    assert wait_for(lambda: checkpoint_files(directory / "checkpoints")[-1] > before)
    family = descendants(second.pid)
    second.send_signal(signal.SIGINT)
    assert second.wait(60) != 0
    assert wait_for(lambda: not any(alive(pid) for pid in family), 60)
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    numbers = [row["round"] for row in lines_of(directory / "rounds.jsonl")]
    assert numbers == list(range(1, summary["rounds"] + 1))


def test_a_node_that_never_answers_is_waited_for_no_longer_than_the_timeout(
    tmp_path: Path, on_ray: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """An actor that is stopped answers late: its answer of an old round must not count in a later one."""
    directory = tmp_path / "run"
    run = on_ray(**{"num-server-rounds": 100_000, "eval-every": 5, "round-timeout": 1.0, "checkpoint-every": 100})
    assert wait_for(lambda: lines_of(directory / "metrics.jsonl")), (tmp_path / "output.txt").read_text()
    [actor, _] = [pid for pid, command in descendants(run.pid).items() if "NodeActor" in command]
    os.kill(actor, signal.SIGSTOP)
    silent = wait_for(
        lambda: any("no answer" in str(row["failed_nodes"]) for row in lines_of(directory / "rounds.jsonl"))
    )
    assert silent
    os.kill(actor, signal.SIGCONT)
    assert wait_for(lambda: lines_of(directory / "rounds.jsonl")[-1]["updates"] == 30)
    assert not any(row["rejected"] for row in lines_of(directory / "rounds.jsonl"))


def test_failures_are_counted_by_kind_without_a_strangers_words() -> None:
    failed = {1: "no answer", 2: "no answer", 3: "error 2: ValueError: boo", 4: "unreadable: an array of 3 dimensions"}
    intake = Intake(None, torch.empty(0), {}, failed, 0, {})
    tally = Tally().plus(RoundOutcome(1, 4, intake, None, 0, "nobody"))
    assert tally.failed == {"no answer": 2, "error": 1, "unreadable": 1}
