"""A checkpoint is whole or refused, and a run that goes on from one ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from what_runs_leave import nodes_state, results

from server.recovery.checkpoint import Checkpoint, CheckpointError, Checkpoints, as_bytes, name_of, read
from server.results.storage import StorageError
from server.simulation import PROJECT, simulate
from server.state import RunState
from settings.options import OptionError
from strategies.server_model import ServerModel

OPTIONS: dict[str, Any] = {
    "engine": "local",
    "num-nodes": 2,
    "num-server-rounds": 14,
    "eval-every": 4,
    "checkpoint-every": 5,
    "clients-per-round": 30,
    "embedding-dim": 8,
    "attack": "cluster",
    "malicious-fraction": 0.1,
    "defense": "union+norm-bound",
}

CHILD = """
import json, os, signal, sys
options, kill_at, hook = json.loads(sys.argv[1])
from server import journal, strategy
owner, name, after = {
    "train": (strategy, "train_round", 1),
    "evaluate": (strategy, "evaluate", 0),
    "write": (journal.Checkpoints, "write", 0),
}[hook]
real = getattr(owner, name)
def dying(*arguments):
    state = arguments[0] if hook != "write" else arguments[1].state
    dies = state.round + after == kill_at
    if dies and hook != "evaluate":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*arguments)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, dying)
from server.simulation import simulate
simulate(options)
"""


def in_a_process(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate({**OPTIONS, "output-dir": str(tmp_path_factory.mktemp("whole"))})[0]


@pytest.mark.parametrize(
    ("hook", "kill_at"),
    [("train", 3), ("train", 7), ("evaluate", 12), ("write", 10)],
    ids=["before the first checkpoint", "between two", "after an evaluation", "while one is due"],
)
def test_a_killed_run_that_is_resumed_ends_as_if_nothing_had_happened(
    tmp_path: Path, uninterrupted: Path, hook: str, kill_at: int
) -> None:
    options = {**OPTIONS, "output-dir": str(tmp_path)}
    child = in_a_process(CHILD, json.dumps([options, kill_at, hook]))
    child.communicate(timeout=300)
    assert child.returncode == -signal.SIGKILL
    directory, summary = simulate({**options, "resume": "latest"})
    assert summary["status"] == "completed"
    assert results(directory) == results(uninterrupted)
    assert nodes_state(directory) == nodes_state(uninterrupted)


def test_a_run_killed_twice_and_while_it_resumes_ends_the_same(tmp_path: Path, uninterrupted: Path) -> None:
    options = {**OPTIONS, "output-dir": str(tmp_path)}
    for resume, kill_at in [("", 9), ("latest", 7), ("latest", 13)]:
        child = in_a_process(CHILD, json.dumps([{**options, "resume": resume}, kill_at, "train"]))
        child.communicate(timeout=300)
        assert child.returncode == -signal.SIGKILL
    directory, _ = simulate({**options, "resume": "latest"})
    assert results(directory) == results(uninterrupted)
    assert nodes_state(directory) == nodes_state(uninterrupted)
    assert json.loads((directory / "checkpoints" / "resumes.json").read_text()) == {"resumed_at": [5, 5, 10]}


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A run with checkpoints after the rounds 5 and 10, and the options to go on to round 14."""
    options = {**OPTIONS, "output-dir": str(tmp_path), "run-name": "stopped"}
    directory, _ = simulate({**options, "num-server-rounds": 10})
    (directory / "checkpoints" / name_of(0)).unlink()
    return directory, {**options, "resume": str(directory)}


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def another_model(path: Path) -> None:
    """The same file with another table, as somebody might write it who does not know of the checksum."""
    tensors = load_file(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({**tensors, "items": tensors["items"] + 1}, path, metadata)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_short, one_bit, another_model, emptied])
def test_a_damaged_checkpoint_is_refused_with_its_reason_and_the_one_before_is_used(
    stopped: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    directory, options = stopped
    damage(directory / "checkpoints" / name_of(10))
    _, summary = simulate({**options, "num-server-rounds": 6})
    assert summary["status"] == "completed"
    assert summary["rounds"] == 6
    assert "is refused: it" in caplog.text
    assert "Resumed after round 5" in caplog.text


def test_where_every_checkpoint_is_damaged_the_reasons_are_told(stopped: tuple[Path, dict[str, Any]]) -> None:
    directory, options = stopped
    cut_short(directory / "checkpoints" / name_of(5))
    one_bit(directory / "checkpoints" / name_of(10))
    with pytest.raises(OptionError, match=r"nothing to resume from.*checksum is wrong.*cannot be read"):
        simulate(options)


def test_results_that_were_cut_off_make_their_checkpoint_useless(
    stopped: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    directory, options = stopped
    lines = (directory / "metrics.jsonl").read_text().splitlines(keepends=True)
    (directory / "metrics.jsonl").write_text("".join(lines[:1]))
    simulate({**options, "num-server-rounds": 6})
    assert "metrics.jsonl is shorter" in caplog.text
    assert "Resumed after round 5" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [("embedding-dim", 16), ("seed", 1), ("attack", "none"), ("defense", "none"), ("dataset", "scale"),
     ("learning-rate", 0.5), ("malicious-fraction", 0.2), ("cluster-clusters", 3), ("num-nodes", 3)],
)  # fmt: skip
def test_options_that_make_it_another_run_are_refused_by_name(uninterrupted: Path, key: str, value: Any) -> None:
    before = results(uninterrupted)
    with pytest.raises(OptionError, match=f"^{key} = "):
        simulate({**OPTIONS, "resume": str(uninterrupted), key: value})
    assert results(uninterrupted) == before


def test_a_run_can_be_made_longer_and_one_checkpoint_can_be_named(tmp_path: Path, uninterrupted: Path) -> None:
    options = {**OPTIONS, "output-dir": str(tmp_path)}
    directory, _ = simulate({**options, "num-server-rounds": 8})
    named = directory / "checkpoints" / name_of(5)
    _, summary = simulate({**options, "resume": str(named)})
    assert summary["rounds"] == 14
    assert results(directory) == results(uninterrupted)


def test_a_checkpoint_that_is_not_there_is_not_taken_for_another_one(uninterrupted: Path) -> None:
    with pytest.raises(OptionError, match="one of its checkpoints"):
        simulate({**OPTIONS, "resume": str(uninterrupted / "checkpoints" / "round-2.safetensors")})


def test_a_finished_run_that_is_resumed_is_finished(tmp_path: Path) -> None:
    options = {**OPTIONS, "output-dir": str(tmp_path), "num-server-rounds": 6}
    directory, _ = simulate(options)
    before = results(directory)
    _, summary = simulate({**options, "resume": "latest"})
    assert summary["status"] == "completed"
    assert results(directory) == before


def test_the_newest_run_of_a_name_is_resumed(tmp_path: Path) -> None:
    """A name that is there already gets a number behind it; the first of them may be complete, or have never begun."""
    (tmp_path / "mine").mkdir()
    options = {**OPTIONS, "output-dir": str(tmp_path), "run-name": "mine", "num-server-rounds": 2}
    assert [simulate(options)[0].name for _ in range(2)] == ["mine-2", "mine-3"]
    simulate({**options, "run-name": "mine-else"})
    found, summary = simulate({**options, "num-server-rounds": 3, "resume": "latest"})
    assert (found.name, summary["rounds"]) == ("mine-3", 3)


@pytest.mark.parametrize("resume", ["latest", "/no/such/run"])
def test_nothing_to_resume_is_said_so(tmp_path: Path, resume: str) -> None:
    with pytest.raises(OptionError, match="resume = "):
        simulate({**OPTIONS, "output-dir": str(tmp_path), "resume": resume})


def model(seed: int = 0) -> ServerModel:
    generator = torch.Generator().manual_seed(seed)
    return ServerModel.start(torch.randn(5, 3, generator=generator), torch.randn(2, generator=generator), 0.1, 0.0)


def state(server_round: int, seed: int = 0) -> RunState:
    return RunState("run", server_round, model(seed))


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2)
    for server_round in (0, 10, 20, 100, 1000):
        checkpoints.write(Checkpoint(state(server_round, server_round), {}))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [name_of(100), name_of(1000)]
    assert checkpoints.oldest() == 100
    found = checkpoints.newest_usable(model(), lambda about: None)
    assert found.state.round == 1000
    assert torch.equal(found.state.model.items, model(1000).items)


def test_any_bit_of_a_checkpoint_counts(tmp_path: Path) -> None:
    whole = as_bytes(Checkpoint(state(3), {"a": 1}))
    path = tmp_path / name_of(3)
    path.write_bytes(whole)
    content, tensors = read(path)
    assert (content["state"]["round"], content["about"]) == (3, {"a": 1})
    assert torch.equal(tensors["items"], model().items)
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(CheckpointError):
            read(path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_ones_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, 3)
    checkpoints.write(Checkpoint(state(1), {}))

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write(Checkpoint(state(2), {}))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [name_of(1)]


FULL = """
import json, resource, signal, sys
from server.simulation import simulate
from server.results.storage import StorageError
# A limit on the size of files acts like a disk that is full.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    simulate(json.loads(sys.argv[1]))
except StorageError as error:
    print("STORAGE:", error)
    sys.exit(3)
"""


def test_a_full_disk_ends_the_run_with_a_sentence_and_it_can_go_on(tmp_path: Path, uninterrupted: Path) -> None:
    options = {**OPTIONS, "output-dir": str(tmp_path)}
    simulate({**options, "num-server-rounds": 5})
    [directory] = tmp_path.iterdir()
    # Enough for what nodes write and for lines, too little for the next checkpoint.
    limit = (directory / "checkpoints" / name_of(5)).stat().st_size // 2
    child = in_a_process(FULL, json.dumps({**options, "resume": "latest"}), str(limit))
    output = child.communicate(timeout=300)[0].decode()
    assert child.returncode == 3, output
    assert f"STORAGE: Results cannot be written to {directory}" in output
    simulate({**options, "resume": "latest"})
    # The shorter run was evaluated after its last round too.
    assert results(directory)["model"] == results(uninterrupted)["model"]
    assert nodes_state(directory) == nodes_state(uninterrupted)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((OptionError, StorageError), match="output-dir"):
        simulate({**OPTIONS, "output-dir": str(tmp_path / "file" / "runs")})


def test_ctrl_c_ends_the_round_and_the_run_can_go_on(tmp_path: Path, uninterrupted: Path) -> None:
    options = {**OPTIONS, "output-dir": str(tmp_path), "run-name": "run", "checkpoint-every": 1000}
    long = {**options, "num-server-rounds": 100_000, "eval-every": 100_000}
    child = in_a_process(
        "import json, sys; from server.simulation import simulate; simulate(json.loads(sys.argv[1]))", json.dumps(long)
    )
    while not any(state["newest"] for state in nodes_state(tmp_path / "run").values()) and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    output = child.communicate(timeout=120)[0].decode()
    assert "Stopped after round" in output
    assert child.returncode != 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / name_of(summary["rounds"])).exists()
    if summary["rounds"] < OPTIONS["num-server-rounds"]:
        _, summary = simulate({**options, "resume": "latest"})
        assert summary["rounds"] == OPTIONS["num-server-rounds"]
        assert results(tmp_path / "run")["model"] == results(uninterrupted)["model"]


def test_two_processes_do_not_train_in_one_directory(tmp_path: Path) -> None:
    from server.results.run_directory import held

    options = {**OPTIONS, "output-dir": str(tmp_path), "num-server-rounds": 5}
    directory, _ = simulate(options)
    with held(directory), pytest.raises(OptionError, match="another process"):
        simulate({**options, "resume": "latest"})


def a_copy(path: Path) -> None:
    """Somebody's copies, which sort behind the file itself, of which one is damaged."""
    content = path.read_bytes()
    path.with_name(path.stem + " (copy).safetensors").write_bytes(content)
    path.with_name(path.stem + "-old.safetensors").write_bytes(content[:100])
    path.with_name("round-latest.safetensors").write_bytes(content)


def test_a_copy_of_a_checkpoint_beside_the_real_ones_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2)
    for server_round in (10, 20):
        checkpoints.write(Checkpoint(state(server_round), {}))
    a_copy(tmp_path / "checkpoints" / name_of(10))
    checkpoints.write(Checkpoint(state(30), {}))
    assert checkpoints.oldest() == 20
    assert checkpoints.newest_usable(model(), lambda about: None).state.round == 30
    checkpoints.forget_after(20)
    assert checkpoints.newest_usable(model(), lambda about: None).state.round == 20
    copy = tmp_path / "checkpoints" / "round-000000010 (copy).safetensors"
    assert copy.exists()
    with pytest.raises(OptionError, match="resume = "):
        simulate({**OPTIONS, "output-dir": str(tmp_path), "resume": str(copy)})


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "BF16", "I16", "BOOL"])
def test_a_header_of_another_kind_of_number_is_refused_and_the_one_before_is_used(tmp_path: Path, kind: str) -> None:
    checkpoints = Checkpoints(tmp_path, 3)
    for server_round in (1, 2):
        checkpoints.write(Checkpoint(state(server_round), {}))
    path = tmp_path / "checkpoints" / name_of(2)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    width = 2 if kind in ("BF16", "I16") else 1
    for name, about in header.items():
        if name != "__metadata__":
            first, last = about["data_offsets"]
            about.update(dtype=kind, shape=[(last - first) // width])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    assert checkpoints.newest_usable(model(), lambda about: None).state.round == 1


@pytest.mark.parametrize("found", ["[" * 100_000, '{"a":' * 5_000 + "1", '"format"', "[1]", "null"])
def test_a_state_of_any_other_form_is_refused_and_the_one_before_is_used(tmp_path: Path, found: str) -> None:
    """With the right checksum: as another program might write it."""
    from server.recovery.checkpoint import _digest

    checkpoints = Checkpoints(tmp_path, 3)
    checkpoints.write(Checkpoint(state(1), {}))
    tensors = dict(model().tensors)
    metadata = {"state": found, "sha256": _digest(found, tensors)}
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "checkpoints" / name_of(2), metadata
    )
    assert checkpoints.newest_usable(model(), lambda about: None).state.round == 1


@pytest.mark.parametrize("form", [{"state": 1}, {"state": {}}, {"about": {}}, {"state": {"run": "x"}, "about": {}}])
def test_a_state_that_lacks_something_is_refused_and_the_one_before_is_used(tmp_path: Path, form: Any) -> None:
    from server.recovery.checkpoint import FORMAT, _digest

    checkpoints = Checkpoints(tmp_path, 3)
    checkpoints.write(Checkpoint(state(1), {}))
    text = json.dumps({"format": FORMAT, **form})
    tensors = {name: tensor.clone() for name, tensor in model().tensors.items()}
    save_file(tensors, tmp_path / "checkpoints" / name_of(2), {"state": text, "sha256": _digest(text, tensors)})
    assert checkpoints.newest_usable(model(), lambda about: None).state.round == 1


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"resumed_at": [1e999]}',
        '{"resumed_at": [Infinity]}',
        '{"resumed_at": [NaN]}',
        '{"resumed_at": [-1]}',
        '{"resumed_at": [2.5]}',
        '{"resumed_at": ' + "[" * 2000 + "]" * 2000 + "}",
        '{"resumed_at": 3}',
        "null",
        "\xff",
    ],
)
def test_resumes_that_cannot_be_read_are_refused_in_a_sentence(tmp_path: Path, content: str) -> None:
    checkpoints = Checkpoints(tmp_path, 3)
    checkpoints.write(Checkpoint(state(1), {}))
    (tmp_path / "checkpoints" / "resumes.json").write_bytes(content.encode().decode("unicode_escape").encode("latin-1"))
    with pytest.raises(OptionError, match=r"resumes\.json cannot be read"):
        checkpoints.resumes()
