"""A node's store: a round is kept as a whole or not at all, whoever serves it, and can be gone back on to the bit."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

import client.app
from client.deployed import resident
from client.state import connections
from client.state.connections import connected
from client.state.store import FILE, AbandonedError, Store
from settings.options import OptionError

DIM, USERS = 4, 20


def train(store: Store, server_round: int, resumed_at: tuple[int, ...] = (), keep_from: int = 0) -> None:
    """One round: six users get numbers of their own, and the attack a new state."""
    with store.begin():
        store.begin_run(resumed_at)
        store.take_up(resumed_at)
        store.begin_round(server_round)
        store.forget(keep_from)
        generator = np.random.default_rng(server_round)
        users = np.sort(generator.choice(USERS, 6, replace=False))
        before, _ = store.vectors(users, DIM)
        # What is kept depends on what was kept before, so that nothing wrong can heal.
        store.overwrite(server_round, users, (before / 2 + generator.normal(size=before.shape)).astype(np.float32))
        # Memory is written now and then, and stays what it was in between.
        memory = store.attack_memory() + bytes([server_round]) if server_round % 3 == 1 else b""
        store.keep_attack({"k": (store.attack() or {"k": 1.0})["k"] * 1.5 + server_round}, memory)


def content(store: Store) -> Any:
    """All that counts of a state."""
    with store.begin():
        values, last = store.vectors(np.arange(USERS), DIM)
        return (
            values.tobytes(),
            last.tolist(),
            (store.attack(), store.attack_memory()),
            store.newest(),
            store.kept_users().tolist(),
        )


def untouched(rounds: int) -> list[Any]:
    """The content after each round of a run in which nothing happened, kept in memory."""
    store = Store(None)
    found = [content(store)]
    for server_round in range(1, rounds + 1):
        train(store, server_round)
        found.append(content(store))
    return found


def in_a_child(body: Callable[[], None]) -> int:
    """Run something in a forked process; how that ended, as ``waitpid`` has it."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        body()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("at", [*range(0, 24, 3), 200])
def test_a_process_killed_before_any_statement_leaves_the_round_before_or_the_whole_round(
    tmp_path: Path, at: int
) -> None:
    expected, path = untouched(4), tmp_path / "node" / FILE
    for server_round in range(1, 4):
        train(Store(path), server_round)

    def dies() -> None:
        statements = 0

        def count(statement: str) -> None:
            nonlocal statements
            statements += 1
            if statements > at:
                os.kill(os.getpid(), signal.SIGKILL)

        connected(path).set_trace_callback(count)
        train(Store(path), 4)

    assert in_a_child(dies) == (signal.SIGKILL if at < 200 else 0)
    assert content(Store(path)) == expected[3 if at < 200 else 4]
    train(Store(path), 4)
    assert content(Store(path)) == expected[4]


@pytest.mark.parametrize("after", [1, 2, 5, 17, 40])
def test_a_process_killed_at_any_moment_has_kept_each_round_that_it_answered_for(tmp_path: Path, after: int) -> None:
    expected, path = untouched(after + 40), tmp_path / "node" / FILE
    reading, writing = os.pipe()

    def serve(server_round: int = 0) -> None:
        while True:
            server_round += 1
            train(Store(path), server_round, keep_from=server_round - 5)
            os.write(writing, b".")

    child = os.fork()
    if not child:
        try:
            serve()
        finally:
            os._exit(0)
    answered = 0
    while answered < after:
        answered += len(os.read(reading, after - answered))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writing)
    answered += len(os.read(reading, 1 << 20))
    os.close(reading)
    found = content(Store(path))
    # The next round may have been kept before its answer could leave.
    assert found in expected[answered : answered + 2]


def test_what_the_parent_holds_open_takes_no_connection_from_a_child(tmp_path: Path) -> None:
    for number in range(connections.MOST_OPEN):
        train(Store(tmp_path / str(number) / FILE), 1)

    def works() -> None:
        # As many as a process may have, and one more, which takes the place of the oldest.
        kept = [connected(tmp_path / f"child-{number}" / FILE) for number in range(connections.MOST_OPEN + 1)]
        for connection in kept[1:]:
            connection.execute("SELECT 1")
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            kept[0].execute("SELECT 1")

    assert in_a_child(works) == 0


def opened_as(path: Path) -> tuple[int, str]:
    """What a commit to the file waits for (0: nothing, 2: the disk), and how it is written."""
    train(Store(path), 1)
    connection = connected(path)
    return connection.execute("PRAGMA synchronous").fetchone()[0], connection.execute("PRAGMA journal_mode").fetchone()[
        0
    ]


def test_a_commit_waits_for_the_disk_in_a_deployed_nodes_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_synced", False)
    assert opened_as(tmp_path / "simulated" / FILE) == (0, "wal")
    # The process that stays, without a message: its socket is opened and served no further.
    monkeypatch.setattr(resident, "serve", lambda *_: None)
    before = signal.getsignal(signal.SIGTERM)
    resident.main(str(tmp_path / "socket"), str(os.getpid()), "0")
    signal.signal(signal.SIGTERM, before)
    assert opened_as(tmp_path / "stays" / FILE) == (2, "wal")
    # A process for one message.
    monkeypatch.setattr(connections, "_synced", False)
    with pytest.raises(RuntimeError, match="no values under the name"):
        client.app._answer_here(Message(RecordDict(), 1, "train"), Context(1, 1, {}, RecordDict(), {}))
    assert opened_as(tmp_path / "one message" / FILE) == (2, "wal")


def test_an_error_in_a_round_leaves_no_trace_of_it(tmp_path: Path) -> None:
    expected, store = untouched(2), Store(tmp_path / FILE)
    train(store, 1)

    def breaks() -> None:
        with store.begin():
            store.begin_round(2)
            store.overwrite(2, np.arange(3), np.ones((3, 3, DIM), np.float32))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        breaks()
    assert content(store) == expected[1]
    train(store, 2)
    assert content(store) == expected[2]


def test_a_full_disk_is_a_sentence_and_nothing_is_half_written(tmp_path: Path) -> None:
    expected, path = untouched(3), tmp_path / FILE
    store = Store(path)
    train(store, 1)
    [pages] = connected(path).execute("PRAGMA page_count").fetchone()
    connected(path).execute(f"PRAGMA max_page_count = {pages}")

    def fills() -> None:
        with store.begin():
            store.begin_round(2)
            store.overwrite(2, np.arange(USERS), np.ones((USERS, 3, 100), np.float32))

    with pytest.raises(OSError, match=r"No space left on the disk .*: free some. Nothing of this request was kept."):
        fills()
    assert content(store) == expected[1]
    connected(path).execute("PRAGMA max_page_count = 1000000")
    train(store, 2)
    train(store, 3)
    assert content(store) == expected[3]


FILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_store
from client.state.store import FILE, Store
store, server_round = Store(Path(sys.argv[1]) / "node" / FILE), 0
try:
    while server_round < 5000:
        test_store.train(store, server_round + 1)
        server_round += 1
except OSError as error:
    print(error)
same = test_store.content(store) == test_store.untouched(server_round)[-1]
print("rounds", server_round > 10, "same", same)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a tmpfs")
def test_a_full_tmpfs_does_not_kill_the_process(tmp_path: Path) -> None:
    """A hole of a memory-mapped file that cannot be filled is a SIGBUS: nothing may be mapped that way."""
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=400k tmpfs "$1" && shift && "$@"', "sh", str(disk)]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a tmpfs")
    program = [sys.executable, "-c", FILLED, str(disk), str(Path(__file__).parent)]
    done = subprocess.run([*mount, *program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "No space left on the disk of this node's state-dir" in done.stdout
    assert "rounds True same True" in done.stdout


@pytest.mark.parametrize("umask", [0, 0o777])
def test_nobody_else_may_enter_or_read_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = Store(tmp_path / "state" / "run" / "node" / FILE)
        train(store, 1)
        train(store, 2)
    finally:
        os.umask(before)
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {path.name for path in found} >= {"state", "run", "node", FILE, f"{FILE}-wal"}
    for path, mode in found.items():
        assert mode == (0o700 if path.is_dir() else 0o600), path


@given(st.integers(1, 8), st.integers(0, 8))
@settings(max_examples=30, deadline=None)
def test_going_back_gives_the_state_of_that_round(rounds: int, back: int) -> None:
    store, expected, back = Store(None), untouched(rounds), min(back, rounds)
    for server_round in range(1, rounds + 1):
        train(store, server_round)
    with store.begin():
        store.go_back(back)
    assert content(store) == expected[back]
    for server_round in range(back + 1, rounds + 1):
        train(store, server_round)
    assert content(store) == expected[rounds]


def test_a_round_that_is_asked_for_twice_is_trained_once() -> None:
    store, expected = Store(None), untouched(3)
    for server_round in (1, 2, 2, 3, 3, 3):
        train(store, server_round)
    assert content(store) == expected[3]
    with pytest.raises(ValueError, match="came after round 3"):
        train(store, 2)
    assert content(store) == expected[3]


def test_what_nobody_goes_back_to_is_forgotten_and_no_more(tmp_path: Path) -> None:
    store, expected = Store(tmp_path / FILE), untouched(100)
    for server_round in range(1, 101):
        # As checkpoints have it: nothing for a while, then many rounds at once.
        train(store, server_round, keep_from=(server_round - 1) // 20 * 20)
    with store.begin():
        assert len(store.stepped()) == 20
        with pytest.raises(
            OptionError, match=r"The node's state .* cannot go back to round 79: .* round 80 was forgotten"
        ):
            store.go_back(79)
        store.go_back(80)
    assert content(store) == expected[80]
    with pytest.raises(ValueError, match="came after round 80"):
        train(store, 79)


def test_the_newest_round_is_known_even_where_nothing_older_is_kept() -> None:
    """Else a request that comes twice, or late, would train its users a second time."""
    store, expected = Store(None), untouched(3)
    for server_round in range(1, 4):
        train(store, server_round, keep_from=server_round)
    with store.begin():
        store.forget(3)
    train(store, 3, keep_from=3)
    assert content(store) == expected[3]


def test_a_resumed_run_goes_back_to_the_earliest_resume_that_the_node_has_not_heard_of() -> None:
    store, expected = Store(None), untouched(9)
    for server_round in range(1, 9):
        train(store, server_round)
    with store.begin():
        # Resumed three times while this node was away.
        store.take_up((5, 7, 6))
    assert content(store) == expected[5]
    train(store, 6, (5, 7, 6))
    assert content(store) == expected[6]
    with pytest.raises(AbandonedError, match="knows of 2 resumes of its run, this node of 3"):
        train(store, 7, (5, 7))
    assert content(store) == expected[6]


def test_a_query_undoes_nothing_because_the_resume_may_yet_be_given_up() -> None:
    store, expected = Store(None), untouched(8)
    for server_round in range(1, 9):
        train(store, server_round, keep_from=4)
    with store.begin():
        store.begin_run((5,))
    assert content(store) == expected[8]
    with pytest.raises(OptionError, match="The node's state in this run cannot go back to round 3"), store.begin():
        store.begin_run((3,))


def test_a_state_that_is_gone_is_said_to_be_gone(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="The node's state in this run is gone, and the run is resumed"):
        train(Store(tmp_path / "a" / FILE), 6, (5,))
    store = Store(tmp_path / "b" / FILE)
    with store.begin():
        store.begin_run((5,), afresh=True)
    train(store, 6, (5,))
    lost = Store(tmp_path / "c" / FILE)
    with pytest.raises(OptionError, match="has lost the state of a run"):
        lost.require_begun()
    assert not (tmp_path / "c").exists()
    with pytest.raises(OptionError, match="has lost the state of a run"), lost.begin():
        lost.take_up(())


def test_a_file_that_was_removed_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / FILE
    train(Store(path), 1)
    for each in tmp_path.iterdir():
        each.unlink()
    assert content(Store(path)) == untouched(0)[0]


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(OSError, match="The file that this node keeps its state in is damaged"):
        train(Store(tmp_path / FILE), 1)


def test_vectors_of_another_length_are_refused() -> None:
    store = Store(None)
    train(store, 1)
    with pytest.raises(ValueError, match="The vectors kept here have 4 numbers, the model's have 8"), store.begin():
        store.vectors(np.arange(USERS), 8)


def test_a_round_costs_what_its_users_cost_however_many_took_part_before() -> None:
    """Counted in steps of SQLite's machine: a look-up in a tree grows with its height alone."""
    steps = []
    for others in (100, 20_000):
        store = Store(None)
        with store.begin():
            store.begin_round(1)
            store.overwrite(1, np.arange(others), np.zeros((others, 3, DIM), np.float32))
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        assert isinstance(store._memory, sqlite3.Connection)
        store._memory.set_progress_handler(count, 1)
        with store.begin():
            users = np.arange(0, 100, 5)
            store.begin_round(2)
            store.forget(1)
            values, _ = store.vectors(users, DIM)
            store.overwrite(2, users, values)
        steps.append(counted)
    assert steps[0] > 100
    assert steps[1] < 1.2 * steps[0]


def test_few_files_are_open_however_many_nodes_a_process_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_OPEN", 3)
    expected = untouched(2)
    stores = [Store(tmp_path / str(node) / FILE) for node in range(8)]
    for server_round in (1, 2):
        for store in stores:
            train(store, server_round)
    mine = [path for process, path in connections._open if process == os.getpid() and tmp_path in path.parents]
    assert len(mine) <= 3
    assert all(content(store) == expected[2] for store in stores)
