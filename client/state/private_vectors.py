"""The users' private vectors with their Adam state, kept where the users live.

A node keeps ``(p, m, v, r)`` for each of its users: the vector, Adam's moments, and the last round in
which it was stepped. On disk these are memory-mapped files that are touched only for users who take
part, so that memory does not grow with the number of users; a journal makes a step all or nothing.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import draws
from client.state.timeline import Timeline
from client.state.undo_log import Record, UndoLog
from draws import Stream
from models import adam
from models.adam import Moments

Ints = NDArray[np.int64]

ROOM_PER_USER = 4 * 4096
"""Free bytes that a step asks for: a page written into a full disk's hole would kill the process."""


@dataclass(frozen=True)
class Vectors:
    """The state of n users: vectors (n, d), moments of the same shape, and the last round (n,) of each."""

    vectors: Tensor
    moments: Moments
    last: Tensor


def joined(parts: Sequence[Vectors]) -> Vectors:
    """The users of all parts, in order."""
    moments = [part.moments for part in parts]
    return Vectors(
        torch.cat([part.vectors for part in parts]),
        Moments(torch.cat([part.first for part in moments]), torch.cat([part.second for part in moments])),
        torch.cat([part.last for part in parts]),
    )


class PrivateVectors:
    """The vectors of the users of one node in one run.

    ``users`` (n,) population indexes in ascending order; a place below is a position in it. ``directory``:
    where the files are, or ``None`` to keep them in memory. A user who never took part has the vector
    drawn from (seed, user), Xavier-uniform for a (num_users, dim) table.
    """

    def __init__(self, users: Ints, num_users: int, dim: int, seed: int, directory: Path | None = None) -> None:
        self._users = users
        self._bound = math.sqrt(6 / (num_users + dim))
        self._dim = dim
        self._seed = seed
        self._directory = directory
        self._newest = 0
        self._unfinished = False
        if directory is None:
            self._values: NDArray[np.float32] = _in_memory((len(users), 3, dim), np.float32)
            self._last: Ints = _in_memory((len(users),), np.int64)
        else:
            directory.mkdir(parents=True, exist_ok=True)
            _check_layout(directory / "layout.json", users, dim, seed)
            self._values = _mapped(directory / "vectors.float32", (len(users), 3, dim), np.float32)
            self._last = _mapped(directory / "rounds.int64", (len(users),), np.int64)
            self._timeline = Timeline(directory)
            with self._timeline.writing():
                self._log = UndoLog(directory / "undo", (3, dim))
                self._recover()
                self._newest = self._log.newest()

    def at(self, places: Ints, before_round: int, learning_rate: float) -> Vectors:
        """The users' state as it stands when round ``before_round`` begins; nothing is written.

        Rounds since their last one are played with a zero gradient, as one dense Adam over all the users
        would have done.
        """
        if self._unfinished:
            with self._timeline.writing():
                self._recover()
        values = torch.from_numpy(self._values[places])
        last = torch.from_numpy(self._last[places])
        fresh = np.flatnonzero(self._last[places] == 0)
        if len(fresh):
            values[fresh, 0] = torch.from_numpy(self._initial(self._users[places[fresh]]))
        moments = Moments(values[:, 1], values[:, 2])
        vectors, moments = adam.idle(values[:, 0], moments, last, before_round - 1, learning_rate)
        return Vectors(vectors, moments, last)

    def step(self, places: Ints, state: Vectors, gradients: Tensor, server_round: int, learning_rate: float) -> None:
        """Step the users by their gradients (n, d) of this round, from ``state`` as ``at`` gave it, and keep it."""
        vectors, moments = adam.step(state.vectors, gradients, state.moments, server_round, learning_rate)
        values = torch.stack([vectors, moments.first, moments.second], 1).cpu().numpy()
        if self._directory is None:
            self._apply(places, values, np.full(len(places), server_round))
            return
        with self._timeline.writing():
            if self._unfinished:
                self._recover()
            _require_room(self._directory, len(places))
            self._log.begin(Record(server_round, places, self._last[places], self._values[places]))
            self._unfinished = True
            self._apply(places, values, np.full(len(places), server_round))
            self._log.finish()
            self._unfinished = False
            self._newest = max(self._newest, server_round)

    def enter(self, server_round: int) -> bool:
        """Make ready for a round: where it was trained before, undo that and say so, so that a request may come twice.

        Raises ``ValueError`` where a later round was trained: a request that comes so late is of no use.
        """
        if self._directory is None or server_round > self._newest:
            return False
        if server_round < self._newest:
            raise ValueError(f"A request of round {server_round} came after round {self._newest} was trained here.")
        with self._timeline.writing():
            self._undo(server_round - 1)
        return True

    def go_back(self, server_round: int, resumes: int) -> None:
        """Be as at the end of a round again, in the course of the run after so many resumes.

        Raises ``DamagedLogError``; interrupted, it can be done again.
        """
        if self._directory is None:
            raise ValueError("Private vectors that are kept in memory cannot go back to an earlier round.")
        with self._timeline.writing():
            # Listed anew: until this moment a process of the abandoned course may have gone on writing.
            self._log = UndoLog(self._directory / "undo", (3, self._dim))
            self._recover()
            self._undo(server_round)
            self._timeline.take_up(resumes)

    def writing(self) -> AbstractContextManager[None]:
        """Hold the node's state for writing beside the vectors (see ``Timeline.writing``)."""
        return nullcontext() if self._directory is None else self._timeline.writing()

    def prune(self, keep_from: int) -> None:
        """Forget what is only needed to go back before the end of round ``keep_from``."""
        if self._directory is not None:
            self._log.prune(keep_from)

    def _initial(self, users: Ints) -> NDArray[np.float32]:
        words = draws.raw(self._seed, Stream.INITIAL_VECTOR, 0, users.tolist(), [self._dim] * len(users))
        uniform = draws.uniform(words).reshape(len(users), self._dim)
        return ((2 * uniform - 1) * self._bound).astype(np.float32)

    def _apply(self, places: Ints, values: NDArray[np.float32], last: Ints) -> None:
        self._values[places] = values
        self._last[places] = last

    def _recover(self) -> None:
        """Take back a step that its process did not survive, and what the same round stepped before it."""
        record = self._log.unfinished()
        if record is not None:
            self._undo(record.server_round - 1)
        self._unfinished = False

    def _undo(self, server_round: int) -> None:
        for record in self._log.newer_than(server_round):
            self._apply(record.places, record.values, record.last)
        self._log.cut(server_round)
        self._newest = self._log.newest()


def stored_dim(directory: Path) -> int | None:
    """The dimension of the vectors that are kept in a directory, ``None`` where there are none."""
    layout = directory / "layout.json"
    return int(json.loads(layout.read_text())["dim"]) if layout.exists() else None


def _require_room(directory: Path, users: int) -> None:
    disk = os.statvfs(directory)
    if disk.f_bavail * disk.f_frsize < users * ROOM_PER_USER:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def _mapped(path: Path, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    if 0 in shape:
        return np.zeros(shape, kind)
    size = math.prod(shape) * np.dtype(kind).itemsize
    with path.open("r+b" if path.exists() else "w+b") as file:
        if not file.seek(0, os.SEEK_END):
            file.truncate(size)
        pages = mmap.mmap(file.fileno(), size)
    if hasattr(mmap, "MADV_RANDOM"):
        # Else a page that is read brings its neighbours along, and soon all users' vectors are in memory.
        pages.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(pages, kind).reshape(shape)


def _in_memory(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    """Zeros that take memory a page of 4096 bytes at a time, where they are touched."""
    if 0 in shape:
        return np.zeros(shape, kind)
    pages = mmap.mmap(-1, math.prod(shape) * np.dtype(kind).itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # NumPy asks for huge pages: a single user's vector would take two megabytes.
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, kind).reshape(shape)


def _check_layout(path: Path, users: Ints, dim: int, seed: int) -> None:
    """Refuse to read the files of other users, another dimension, or another seed."""
    layout = {"users": len(users), "crc": zlib.crc32(users.tobytes()), "dim": dim, "seed": seed}
    if path.exists():
        found = json.loads(path.read_text())
        if found != layout:
            raise ValueError(f"{path.parent} holds private vectors of another layout: {found}, expected {layout}.")
        return
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(layout))
    partial.replace(path)
