"""The node's process that stays: the same answers, nothing lost when it dies, nothing left when it should end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from safetensors.torch import load_file

from client import answers
from client.deployed import resident
from server.config import server_config
from server.grids.local_grid import LocalGrid
from server.simulation import default_options
from server.training import run_training
from settings.options import Scalar

PROJECT = Path(__file__).resolve().parents[2]
OPTIONS: dict[str, Scalar] = {
    "dataset": "synthetic",
    "num-server-rounds": 4,
    "eval-every": 4,
    "clients-per-round": 30,
    "attack": "cluster",
    "malicious-fraction": 0.05,
    "defense": "norm-bound",
}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The processes that were started; they end with the test."""
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def keep(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        process = popen(*arguments, **named)
        # The module is everybody's: others may start processes meanwhile.
        if resident.BOOT in arguments[0]:
            processes.append(process)
        return process

    monkeypatch.setattr(resident.subprocess, "Popen", keep)
    folder = tmp_path_factory.mktemp("s")
    monkeypatch.setattr(resident.tempfile, "gettempdir", lambda: str(folder))
    yield processes
    for process in processes:
        process.terminate()
        process.wait(20)


def train(app: Any, folder: Path, run_config: dict[str, Scalar], run_id: int) -> torch.Tensor:
    """Two nodes that keep their state on disk."""
    grid = LocalGrid(app, run_config, 2, str(folder / "state"), run_id)
    (folder / "run").mkdir(parents=True)
    run_training(grid, server_config(run_config), folder / "run")
    return load_file(folder / "run" / "model.safetensors")["items"]


def test_a_resident_that_is_killed_between_messages_loses_nothing(
    started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    run_config = {**default_options(), **OPTIONS}
    expected = train(answers.answer, tmp_path / "here", run_config, 51)
    seen: list[str] = []
    asked_after: set[int] = set()

    def through_residents(message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        if message.metadata.group_id == "3" and kind == "train" and "3" not in seen:
            # As where a SuperNode is killed: no warning, no time to write anything.
            for process in started:
                process.kill()
                process.wait()
        seen.append(message.metadata.group_id)
        if "3" in seen:
            asked_after.add(context.node_id)
        return resident.answer(message, context, 60.0)

    items = train(through_residents, tmp_path / "there", run_config, 52)
    assert torch.equal(items, expected)
    assert asked_after
    assert len(started) == 2 + len(asked_after), "each started once, and once more where it was asked again"
    assert [process.returncode for process in started[:2]] == [-signal.SIGKILL] * 2


def test_what_a_node_raises_arrives_with_its_type_and_text(started: list[subprocess.Popen[bytes]]) -> None:
    run_config = {**default_options(), "dataset": "no-such-data"}
    context = Context(61, 1, {"partition-id": 0, "num-partitions": 1}, RecordDict(), run_config)
    message = Message(RecordDict(), 1, "query", group_id="0")
    with pytest.raises(Exception, match="no-such-data") as raised:
        resident.answer(message, context, 60.0)
    assert type(raised.value).__name__ == "OptionError"


def test_it_ends_when_nothing_comes_and_leaves_no_socket(
    started: list[subprocess.Popen[bytes]],
) -> None:
    run_config = {**default_options(), "dataset": "synthetic"}
    context = Context(62, 1, {"partition-id": 0, "num-partitions": 1, "state-dir": "memory"}, RecordDict(), run_config)
    reply = resident.answer(Message(RecordDict(), 1, "query", group_id="0"), context, 0.5)
    assert reply.has_content()
    assert started[0].wait(30) == 0
    assert not list(resident._private_folder().iterdir())
    # The next message finds none and starts another.
    resident.answer(Message(RecordDict(), 1, "query", group_id="0"), context, 60.0)
    started[1].send_signal(signal.SIGTERM)
    assert started[1].wait(30) == 0
    assert not list(resident._private_folder().iterdir())


def test_it_ends_with_its_supernode() -> None:
    """The process that it watches here is one that has ended."""
    other = subprocess.Popen([sys.executable, "-c", ""])
    other.wait()
    listener_folder = resident._private_folder()
    address = listener_folder / f"test-{os.getpid()}"
    command = [sys.executable, "-c", resident.BOOT, str(PROJECT), str(address), str(other.pid), "600"]
    process = subprocess.Popen(command)
    try:
        assert process.wait(120) == 0
    finally:
        process.kill()
    assert not address.exists()


def test_a_folder_that_others_can_enter_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resident.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"robust-fedrec-{os.getuid()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with pytest.raises(OSError, match="this user alone"):
        resident._private_folder()


def test_the_process_that_flower_starts_imports_nothing_heavy() -> None:
    program = textwrap.dedent("""
        import sys
        import client.app, client.deployed.resident
        heavy = {"torch", "scipy", "sklearn", "ray", "pandas", "pyarrow"} & set(sys.modules)
        ours = {name.partition(".")[0] for name in sys.modules} & {"attacks", "data", "models", "server", "strategies"}
        sys.exit(str(sorted(heavy | ours)) if heavy | ours else 0)
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_node_imports_neither_scipy_nor_ray() -> None:
    program = textwrap.dedent("""
        import sys
        import client.answers, client.learners.recommender, models.recommenders.mf_recommender
        import attacks.recommenders.cluster, data.movielens
        # Numba looks at SciPy's version, which imports none of its parts.
        parts = {name for name in sys.modules if name.split(".")[:2] in (["scipy", "stats"], ["scipy", "sparse"])}
        heavy = {"sklearn", "ray", "pandas", "pyarrow"} & set(sys.modules) | parts
        sys.exit(str(sorted(heavy)) if heavy else 0)
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_message_that_is_being_answered_is_not_cut_off_by_the_end_of_the_quiet_time(
    started: list[subprocess.Popen[bytes]],
) -> None:
    run_config = {**default_options(), "dataset": "synthetic"}
    context = Context(63, 1, {"partition-id": 0, "num-partitions": 1, "state-dir": "memory"}, RecordDict(), run_config)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        # Shorter than a pause between two messages: each comes about when the process ends.
        assert resident.answer(Message(RecordDict(), 1, "query", group_id="0"), context, 0.02).has_content()
        time.sleep(0.02)


def test_a_run_with_another_version_of_a_plugin_or_of_own_data_gets_another_process(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = tmp_path_factory.mktemp("s")
    monkeypatch.setattr(resident.tempfile, "gettempdir", lambda: str(sockets))
    plugin, data = tmp_path / "my_attack.py", tmp_path / "own.inter"
    for path in (plugin, data):
        path.write_text("")

    def address(run: int) -> Path:
        context = Context(run, 7, {"data": str(data)}, RecordDict(), {"plugin-dir": str(tmp_path)})
        return resident._address(context, PROJECT)

    seen = [address(1)]
    assert address(2) == seen[0]
    for run, changed in ((3, plugin), (4, data)):
        os.utime(changed, ns=(0, run))
        # A run goes on with what it began with.
        assert address(1) == seen[0]
        seen.append(address(run))
    assert len(set(seen)) == 3
