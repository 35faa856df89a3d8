"""The users' private vectors with their Adam state, kept where the users live.

A node keeps ``(p, m, v, r)`` for each of its users: the vector, Adam's moments, and the last round in
which it was stepped. On disk these are memory-mapped files that are touched only for users who take
part, so that memory does not grow with the number of users; a journal makes a step all or nothing.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data import draws
from data.draws import Stream
from models import adam
from models.adam import Moments

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Vectors:
    """The state of n users: vectors (n, d), moments of the same shape, and the last round (n,) of each."""

    vectors: Tensor
    moments: Moments
    last: Tensor


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
        if directory is None:
            self._values: NDArray[np.float32] = np.zeros((len(users), 3, dim), np.float32)
            self._last: Ints = np.zeros(len(users), np.int64)
        else:
            directory.mkdir(parents=True, exist_ok=True)
            _check_layout(directory / "layout.json", users, dim, seed)
            self._values = _mapped(directory / "vectors.float32", (len(users), 3, dim), np.float32)
            self._last = _mapped(directory / "rounds.int64", (len(users),), np.int64)
            self._replay_journal()

    def at(self, places: Ints, before_round: int, learning_rate: float) -> Vectors:
        """The users' state as it stands when round ``before_round`` begins; nothing is written.

        Rounds since their last one are played with a zero gradient, as one dense Adam over all the users
        would have done.
        """
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
        if self._directory is not None:
            _write_journal(self._directory / "journal", places, values, server_round)
        self._apply(places, values, server_round)
        if self._directory is not None:
            (self._directory / "journal").unlink()

    def _initial(self, users: Ints) -> NDArray[np.float32]:
        words = draws.raw(self._seed, Stream.INITIAL_VECTOR, 0, users.tolist(), [self._dim] * len(users))
        uniform = draws.uniform(words).reshape(len(users), self._dim)
        return ((2 * uniform - 1) * self._bound).astype(np.float32)

    def _apply(self, places: Ints, values: NDArray[np.float32], server_round: int) -> None:
        self._values[places] = values
        self._last[places] = server_round

    def _replay_journal(self) -> None:
        assert self._directory is not None
        journal = self._directory / "journal"
        if journal.exists():
            entry = _read_journal(journal, self._dim)
            if entry is not None:
                self._apply(*entry)
            journal.unlink()


def _mapped(path: Path, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    if 0 in shape:
        return np.zeros(shape, kind)
    return np.memmap(path, kind, "r+" if path.exists() else "w+", shape=shape)


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


def _write_journal(path: Path, places: Ints, values: NDArray[np.float32], server_round: int) -> None:
    """What is about to be written, complete under its name or not there at all."""
    body = np.array([server_round, len(places)], np.int64).tobytes() + places.tobytes() + values.tobytes()
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(zlib.crc32(body).to_bytes(4, "little") + body)
    partial.replace(path)


def _read_journal(path: Path, dim: int) -> tuple[Ints, NDArray[np.float32], int] | None:
    """The entry that was being written when its process died; ``None`` where the disk damaged it."""
    content = path.read_bytes()
    if len(content) < 20 or zlib.crc32(content[4:]) != int.from_bytes(content[:4], "little"):
        return None
    server_round, count = np.frombuffer(content, np.int64, 2, offset=4).tolist()
    places = np.frombuffer(content, np.int64, count, offset=20)
    values = np.frombuffer(content, np.float32, offset=20 + 8 * count).reshape(count, 3, dim)
    return places, values, server_round
