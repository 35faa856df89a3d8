"""Private state is never half-updated, and goes back to any round that is still logged, to the bit."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.state import private_vectors, undo_log
from client.state.attack_log import AttackLog
from client.state.private_vectors import PrivateVectors
from client.state.timeline import AbandonedError, Timeline
from client.state.undo_log import DamagedLogError, Record, UndoLog

USERS = np.arange(10, 30)
DIM, RATE = 4, 0.01


class Died(BaseException):
    """Stands for the end of a process."""


def dying_after(written: int) -> Callable[[Path, bytes], None]:
    """In place of a write into the log: so many bytes, and the end of the process."""

    def cut_short(path: Path, record: bytes) -> None:
        with path.open("ab") as file:
            file.write(record[:written])
        raise Died

    return cut_short


def opened(directory: Path) -> PrivateVectors:
    return PrivateVectors(USERS, 40, DIM, 0, directory)


def train(vectors: PrivateVectors, server_round: int) -> None:
    generator = np.random.default_rng(server_round)
    places = np.sort(generator.choice(len(USERS), 6, replace=False))
    gradients = torch.from_numpy(generator.normal(size=(6, DIM)).astype(np.float32))
    vectors.enter(server_round)
    vectors.step(places, vectors.at(places, server_round, RATE), gradients, server_round, RATE)


def content(directory: Path) -> tuple[bytes, bytes]:
    return (directory / "vectors.float32").read_bytes(), (directory / "rounds.int64").read_bytes()


def untouched(directory: Path, rounds: range) -> list[tuple[bytes, bytes]]:
    """The files after each round of a run in which nothing happened."""
    vectors = opened(directory)
    found = [content(directory)]
    for server_round in rounds:
        train(vectors, server_round)
        found.append(content(directory))
    return found


@pytest.mark.parametrize("written", [0, 1, 19, 20, 100, 10_000])
def test_a_crash_while_the_log_is_written_leaves_the_round_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    expected = untouched(tmp_path / "a", range(1, 5))
    vectors = opened(tmp_path / "b")
    for server_round in range(1, 4):
        train(vectors, server_round)

    monkeypatch.setattr(undo_log, "_append", dying_after(written))
    with pytest.raises(Died):
        train(vectors, 4)
    monkeypatch.undo()
    again = opened(tmp_path / "b")
    assert content(tmp_path / "b") == expected[3]
    train(again, 4)
    assert content(tmp_path / "b") == expected[4]


def test_a_crash_in_the_middle_of_a_step_leaves_the_round_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = untouched(tmp_path / "a", range(1, 5))
    vectors = opened(tmp_path / "b")
    for server_round in range(1, 4):
        train(vectors, server_round)

    def half(self: PrivateVectors, places: np.ndarray, values: np.ndarray, last: np.ndarray) -> None:
        self._values[places[:3]] = values[:3]
        self._last[places[:1]] = last[:1]
        raise Died

    monkeypatch.setattr(PrivateVectors, "_apply", half)
    with pytest.raises(Died):
        train(vectors, 4)
    monkeypatch.undo()
    assert content(tmp_path / "b") != expected[3]
    opened(tmp_path / "b")
    assert content(tmp_path / "b") == expected[3]


def test_a_step_that_failed_is_taken_back_by_the_process_that_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = untouched(tmp_path / "a", range(1, 3))
    vectors = opened(tmp_path / "b")
    train(vectors, 1)
    with monkeypatch.context() as patched:
        patched.setattr(UndoLog, "finish", lambda self: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(OSError, match="broken"):
            train(vectors, 2)
    train(vectors, 2)
    assert content(tmp_path / "b") == expected[2]


def test_a_full_disk_is_an_error_before_anything_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = opened(tmp_path)
    train(vectors, 1)
    before = content(tmp_path)
    full = os.statvfs_result((4096, 4096, 100, 0, 0, 1, 1, 1, 0, 255))
    monkeypatch.setattr(private_vectors.os, "statvfs", lambda path: full)
    with pytest.raises(OSError, match="No space left"):
        train(vectors, 2)
    monkeypatch.undo()

    written = []

    def refuse(descriptor: int, data: memoryview) -> int:
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(os.pwrite(descriptor, data[:10], os.fstat(descriptor).st_size))
        return 10

    monkeypatch.setattr(undo_log.os, "write", refuse)
    with pytest.raises(OSError, match="No space left"):
        train(vectors, 2)
    monkeypatch.undo()
    assert content(tmp_path) == before
    train(vectors, 2)


@given(st.integers(1, 8), st.integers(0, 8), st.sampled_from([64, 2000, 1 << 20]))
@settings(max_examples=40, deadline=None)
def test_going_back_gives_the_state_of_that_round(
    tmp_path_factory: pytest.TempPathFactory, rounds: int, back: int, segment: int
) -> None:
    directory = tmp_path_factory.mktemp("node")
    back = min(back, rounds)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(undo_log, "SEGMENT_BYTES", segment)
        expected = untouched(directory, range(1, rounds + 1))
        opened(directory).go_back(back, 1)
        assert content(directory) == expected[back]
        again = opened(directory)
        for server_round in range(back + 1, rounds + 1):
            train(again, server_round)
        assert content(directory) == expected[rounds]


def test_going_back_can_be_interrupted_and_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = untouched(tmp_path, range(1, 7))
    applied = []
    real = PrivateVectors._apply

    def dies(self: PrivateVectors, *arguments: np.ndarray) -> None:
        if len(applied) == 2:
            raise Died
        applied.append(real(self, *arguments))

    monkeypatch.setattr(PrivateVectors, "_apply", dies)
    with pytest.raises(Died):
        opened(tmp_path).go_back(2, 1)
    monkeypatch.undo()
    opened(tmp_path).go_back(2, 1)
    assert content(tmp_path) == expected[2]


def test_a_round_that_is_asked_for_twice_is_trained_once(tmp_path: Path) -> None:
    expected = untouched(tmp_path / "a", range(1, 4))
    vectors = opened(tmp_path / "b")
    for server_round in (1, 2, 2, 3, 3, 3):
        train(vectors, server_round)
    assert content(tmp_path / "b") == expected[3]
    with pytest.raises(ValueError, match="after round 3"):
        vectors.enter(2)


def test_what_nobody_goes_back_to_is_deleted_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo_log, "SEGMENT_BYTES", 1000)
    vectors = opened(tmp_path)
    expected = untouched(tmp_path / "a", range(1, 101))
    for server_round in range(1, 101):
        train(vectors, server_round)
        vectors.prune(max(0, server_round - 10))
    log = sum(path.stat().st_size for path in (tmp_path / "undo").iterdir())
    assert log < 20 * 6 * (16 + 12 * DIM + 20)
    vectors.go_back(92, 1)
    assert content(tmp_path) == expected[92]


def test_damage_is_told_from_a_crash(tmp_path: Path) -> None:
    untouched(tmp_path, range(1, 5))
    [segment] = (tmp_path / "undo").iterdir()
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    segment.write_bytes(damaged)
    with pytest.raises(DamagedLogError, match="damaged"):
        opened(tmp_path)


def test_a_process_of_an_abandoned_course_cannot_write(tmp_path: Path) -> None:
    old = opened(tmp_path)
    train(old, 1)
    train(old, 2)
    opened(tmp_path).go_back(1, 1)
    before = content(tmp_path)
    with pytest.raises(AbandonedError):
        train(old, 3)
    assert content(tmp_path) == before


def test_how_far_a_node_goes_back(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path)
    assert timeline.back_to(()) is None
    # Resumed three times while this node was away: the earliest of them counts.
    assert timeline.back_to((40, 60, 50)) == 40
    with timeline.writing():
        timeline.take_up(2)
    assert Timeline(tmp_path).back_to((40, 60, 50)) == 50
    assert Timeline(tmp_path).back_to((40, 60)) is None
    with pytest.raises(AbandonedError, match="resumed elsewhere"):
        Timeline(tmp_path).back_to((40,))


def test_the_log_holds_what_it_was_given(tmp_path: Path) -> None:
    log = UndoLog(tmp_path / "undo", (3, 2))
    record = Record(7, np.array([4, 2]), np.array([0, 6]), np.arange(12, dtype=np.float32).reshape(2, 3, 2))
    log.begin(record)
    read = UndoLog(tmp_path / "undo", (3, 2)).unfinished()
    assert read is not None
    assert (read.server_round, read.places.tolist(), read.last.tolist()) == (7, [4, 2], [0, 6])
    assert np.array_equal(read.values, record.values)
    log.finish()
    assert log.unfinished() is None


def test_an_attackers_state_goes_back_and_survives_a_torn_line(tmp_path: Path) -> None:
    log = AttackLog(tmp_path / "attack.jsonl")
    assert log.last() is None
    for server_round in range(1, 6):
        log.save(server_round, {"k": server_round / 3, "best": float("nan")}, 0)
    with (tmp_path / "attack.jsonl").open("a") as file:
        file.write('{"round": 6, "sta')
    last = log.last()
    assert last is not None
    assert last["k"] == 5 / 3
    log.cut(3)
    log.save(4, {"k": 0.1 + 0.2}, 0)
    assert log.last() == {"k": 0.1 + 0.2}


def test_a_round_whose_record_fills_segments_is_one_that_can_be_pruned_and_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large cohort writes more than a segment's bytes in one round, also where it steps its users in parts."""
    monkeypatch.setattr(undo_log, "SEGMENT_BYTES", 100)
    expected = untouched(tmp_path / "a", range(1, 3))
    vectors = opened(tmp_path / "b")
    train(vectors, 1)
    assert content(tmp_path / "b") == expected[1]
    vectors.enter(2)
    for places in np.split(np.arange(len(USERS)), 4):
        gradients = torch.ones(len(places), DIM)
        vectors.step(places, vectors.at(places, 2, RATE), gradients, 2, RATE)
    vectors.prune(1)
    train(vectors, 3)
    vectors.prune(1)
    vectors.go_back(1, 1)
    assert content(tmp_path / "b") == expected[1]


def test_a_round_stepped_in_parts_is_taken_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = untouched(tmp_path / "a", range(1, 2))
    vectors = opened(tmp_path / "b")
    train(vectors, 1)
    first, second = np.arange(5), np.arange(5, 10)
    vectors.step(first, vectors.at(first, 2, RATE), torch.ones(5, DIM), 2, RATE)
    monkeypatch.setattr(UndoLog, "finish", lambda self: (_ for _ in ()).throw(Died))
    with pytest.raises(Died):
        vectors.step(second, vectors.at(second, 2, RATE), torch.ones(5, DIM), 2, RATE)
    monkeypatch.undo()
    opened(tmp_path / "b")
    assert content(tmp_path / "b") == expected[1]


@pytest.mark.parametrize("written", [0, 3])
def test_a_crash_in_the_first_write_of_a_segment_leaves_nothing_that_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    monkeypatch.setattr(undo_log, "SEGMENT_BYTES", 1)
    expected = untouched(tmp_path / "a", range(1, 7))
    vectors = opened(tmp_path / "b")
    for server_round in range(1, 6):
        train(vectors, server_round)

    with monkeypatch.context() as patched:
        patched.setattr(undo_log, "_append", dying_after(written))
        with pytest.raises(Died):
            train(vectors, 6)
    opened(tmp_path / "b").go_back(3, 1)
    assert content(tmp_path / "b") == expected[3]
    again = opened(tmp_path / "b")
    for server_round in range(4, 7):
        train(again, server_round)
    assert content(tmp_path / "b") == expected[6]


def test_a_segment_that_cannot_be_begun_is_not_missed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo_log, "SEGMENT_BYTES", 1)
    expected = untouched(tmp_path / "a", range(1, 3))
    vectors = opened(tmp_path / "b")
    train(vectors, 1)

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(undo_log, "_append", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            train(vectors, 2)
    train(vectors, 2)
    assert content(tmp_path / "b") == expected[2]
