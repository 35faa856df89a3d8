"""A node's state in one run, in one SQLite file: private vectors, the attack's state, and how far the node is.

A round is one transaction: it commits as a whole before its answer leaves, or leaves no trace. Any process may serve
any round, because nothing is remembered outside the file. What a round overwrites goes into a table, so that
the state can go back to the end of an earlier round, as a resume and a repeated request ask for.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.state.connections import connected
from settings.options import OptionError

Ints = NDArray[np.int64]

FILE = "state.sqlite"

FORMAT = 1
"""Of the tables; written into the file."""

TABLES = (
    "CREATE TABLE note (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    # In the order in which users first took part: a random order would touch a page for each user of a round.
    "CREATE TABLE vector (place INTEGER PRIMARY KEY, user INTEGER UNIQUE, last INTEGER, numbers BLOB)",
    # What stood before each round: of its users (those whose last round is 0 had nothing), and the attack's state.
    "CREATE TABLE history (round INTEGER PRIMARY KEY, users BLOB, last BLOB, numbers BLOB, attack TEXT)",
)

MEMORY = "attack-memory-"
"""Begins the name of a note, which ends in the round that the memory is of."""

LOST = (
    "This node has lost the state of a run that it takes part in: its state-dir was emptied or replaced. "
    "Give it back its state-dir, or start the run anew."
)

LEAST_ROOM = 1 << 16
"""Free bytes below which an error of the disk is taken for a full one; SQLite does not tell all of them apart."""

FORGOTTEN_AT_ONCE = 4
"""Rounds deleted in one transaction: after a checkpoint a hundred may be due, and no single round pays for them."""


class AbandonedError(RuntimeError):
    """A request of a branch of the run that was given up when the run was resumed from a checkpoint."""


class Store:
    """The state that is kept in the file ``path``, or in memory where that is ``None``.

    Everything but ``begin`` and ``require_begun`` is called inside ``with store.begin():``.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._memory = _in_memory() if path is None else None
        self._active: sqlite3.Connection | None = None
        self._read: tuple[str, list[tuple[int, int, int, bytes]]] | None = None
        self._lock = threading.RLock()

    @contextmanager
    def begin(self) -> Iterator[None]:
        """A transaction that no other process writes beside: committed at its end, without a trace after an error.

        Inside another one it is part of that. Raises ``OSError`` where the file cannot be used.
        """
        with self._lock, _explained(self._path):
            if self._active is not None:
                yield
                return
            connection = self._memory or connected(self._path)  # type: ignore[arg-type]
            connection.execute("BEGIN IMMEDIATE")
            self._active = connection
            try:
                self._make_tables()
                yield
                connection.execute("COMMIT")
            except BaseException:
                # Some errors, a full disk among them, have rolled back by themselves.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._active = self._read = None

    def require_begun(self) -> None:
        """Raise ``OptionError`` where there is no file: what only reads or goes on must not make one."""
        if self._path is not None and not self._path.exists():
            raise OptionError(LOST)

    def begin_run(self, resumed_at: Sequence[int], *, afresh: bool = False) -> None:
        """Begin a run's state, or see that the run can be gone on with where it is resumed; nothing is undone yet.

        Raises ``AbandonedError`` as ``take_up`` does, and ``OptionError`` where the run is resumed and its state can no
        longer go back so far, or is gone, unless it shall go on ``afresh``.
        """
        if self.note("resumes") is not None:
            back_to = self._back_to(resumed_at)
            if back_to is not None:
                self._require_kept(back_to)
            return
        if resumed_at and not afresh:
            raise OptionError(
                "The node's state in this run is gone, and the run is resumed: the private vectors of its users would "
                "start anew. Give the node back its state-dir, or resume without the old state."
            )
        self.keep_note("resumes", 0)

    def take_up(self, resumed_at: Sequence[int]) -> None:
        """Follow the run through its resumes: go back to the earliest round of those not heard of yet.

        Raises ``AbandonedError`` for a request that knows of fewer resumes than this state, and ``OptionError`` where
        the run was never begun here: then its state was lost.
        """
        if self.note("resumes") is None:
            raise OptionError(LOST)
        back_to = self._back_to(resumed_at)
        if back_to is not None:
            self.go_back(back_to)
            self.keep_note("resumes", len(resumed_at))

    def begin_round(self, server_round: int) -> None:
        """Make ready for training a round; where it was trained before, that is undone first.

        Raises ``ValueError`` where a later round was trained: a request that comes so late is of no use.
        """
        newest = self.newest()
        if server_round < newest:
            raise ValueError(f"A request of round {server_round} came after round {newest} was trained here.")
        if server_round == newest:
            self.go_back(server_round - 1)
        self._execute("INSERT INTO history (round, attack) VALUES (?, ?)", server_round, self.note("attack"))

    def newest(self) -> int:
        """The last round that was trained here, 0 before the first."""
        [newest] = self._execute("SELECT max(round) FROM history").fetchone()
        return int(newest or self.note("forgotten") or 0)

    def go_back(self, server_round: int) -> None:
        """Be as at the end of a round again. Raises ``OptionError`` where that was forgotten."""
        self._require_kept(server_round)
        while True:
            query = "SELECT * FROM history WHERE round > ? ORDER BY round DESC LIMIT 1"
            found = self._execute(query, server_round).fetchone()
            if found is None:
                break
            self._restore(*found)
        evaluated = self.note("evaluated")
        if evaluated is not None and evaluated > server_round:
            self.keep_note("evaluated", server_round)

    def forget(self, keep_from: int) -> None:
        """Drop what is only needed to go back before the end of round ``keep_from``; not all of it at once."""
        query = "SELECT round FROM history WHERE round <= min(?, ? - 1) ORDER BY round LIMIT ?"
        due = self._execute(query, keep_from, self.newest(), FORGOTTEN_AT_ONCE).fetchall()
        if due:
            self._execute("DELETE FROM history WHERE round <= ?", due[-1][0])
            self.keep_note("forgotten", due[-1][0])

    def vectors(self, users: Ints, dim: int) -> tuple[NDArray[np.float32], Ints]:
        """The kept numbers (n, 3, dim) of the users and their last rounds (n,), both 0 for who never took part.

        Raises ``ValueError`` where vectors of another dimension are kept.
        """
        values, last = np.zeros((len(users), 3, dim), np.float32), np.zeros(len(users), np.int64)
        rows = self._kept(users)
        if rows:
            _, positions, rounds, numbers = zip(*rows, strict=True)
            if len(numbers[0]) != 12 * dim:
                raise ValueError(f"The vectors kept here have {len(numbers[0]) // 12} numbers, the model's have {dim}.")
            last[list(positions)] = rounds
            values[list(positions)] = np.frombuffer(b"".join(numbers), np.float32).reshape(-1, 3, dim)
        return values, last

    def overwrite(self, server_round: int, users: Ints, values: NDArray[np.float32]) -> None:
        """Keep the numbers (n, 3, dim) of users that this round has stepped; once a round."""
        there = self._kept(users)
        last = np.zeros(len(users), np.int64)
        last[[row[1] for row in there]] = [row[2] for row in there]
        numbers = b"".join([row[3] for row in there])
        cells = memoryview(np.ascontiguousarray(values).tobytes())
        width = len(cells) // max(len(users), 1)
        fresh = np.flatnonzero(last == 0).tolist()
        self._read = None
        query = "UPDATE history SET users = ?, last = ?, numbers = ? WHERE round = ? AND users IS NULL"
        if not self._execute(query, users.tobytes(), last.tobytes(), numbers, server_round).rowcount:
            raise ValueError(f"Round {server_round} was not begun here, or has stepped its users already.")
        self._many(
            "UPDATE vector SET last = ?, numbers = ? WHERE place = ?",
            [(server_round, cells[key * width : (key + 1) * width], place) for place, key, _, _ in there],
        )
        self._many(
            "INSERT INTO vector (user, last, numbers) VALUES (?, ?, ?)",
            [(int(users[key]), server_round, cells[key * width : (key + 1) * width]) for key in fresh],
        )

    def stepped(self) -> dict[int, Ints]:
        """Whose vectors each round that can be undone has stepped."""
        rows = self._execute("SELECT round, users FROM history WHERE users IS NOT NULL ORDER BY round").fetchall()
        return {server_round: np.frombuffer(users, np.int64) for server_round, users in rows}

    def kept_users(self) -> Ints:
        """Who ever took part, in ascending order."""
        rows = self._execute("SELECT user FROM vector ORDER BY user").fetchall()
        return np.array([row[0] for row in rows], np.int64)

    def dim(self) -> int | None:
        """The dimension of the vectors that are kept, ``None`` where there are none."""
        row = self._execute("SELECT length(numbers) FROM vector LIMIT 1").fetchone()
        return None if row is None else int(row[0]) // 12

    def attack(self) -> dict[str, float] | None:
        """The attack's state after the last round that was attacked, ``None`` where there is none."""
        kept = self.note("attack")
        return None if kept is None else json.loads(kept)

    def attack_memory(self) -> bytes:
        """The larger part of the attack's state, as it was last kept; b"" where there is none."""
        query = "SELECT value FROM note WHERE name GLOB ? ORDER BY name DESC LIMIT 1"
        row = self._execute(query, f"{MEMORY}*").fetchone()
        return b"" if row is None else bytes(row[0])

    def keep_attack(self, state: dict[str, float], memory: bytes = b"") -> None:
        """Keep the attack's state, and ``memory`` where it is new; a round that is undone brings back what was before.

        Called inside a round.
        """
        self.keep_note("attack", json.dumps(state))
        if memory:
            self.keep_note(f"{MEMORY}{self.newest():012d}", memory)

    def note(self, name: str) -> Any:
        """What is kept under a name, a number, text or bytes, ``None`` where there is nothing."""
        row = self._execute("SELECT value FROM note WHERE name = ?", name).fetchone()
        return None if row is None else row[0]

    def keep_note(self, name: str, value: int | str | bytes | None) -> None:
        """Keep something under a name."""
        self._execute("INSERT INTO note VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", name, value)

    def _back_to(self, resumed_at: Sequence[int]) -> int | None:
        """The last round of this state that still counts, ``None`` where all of it does. Raises ``AbandonedError``."""
        known = self.note("resumes")
        if len(resumed_at) < known:
            raise AbandonedError(
                f"This request knows of {len(resumed_at)} resumes of its run, this node of {known}: "
                "it comes from a server whose run was resumed elsewhere."
            )
        return min(resumed_at[known:], default=None)

    def _require_kept(self, server_round: int) -> None:
        forgotten = self.note("forgotten") or 0
        if server_round < forgotten:
            raise OptionError(
                f"The node's state in this run cannot go back to round {server_round}: what is older than round "
                f"{forgotten} was forgotten, as the run's checkpoints allowed."
            )

    def _restore(self, server_round: int, users: bytes | None, last: bytes, numbers: bytes, attack: str | None) -> None:
        self._read = None
        if users is not None:
            who, before = np.frombuffer(users, np.int64).tolist(), np.frombuffer(last, np.int64).tolist()
            there = [(rounds, user) for user, rounds in zip(who, before, strict=True) if rounds]
            cells, width = memoryview(numbers), len(numbers) // max(len(there), 1)
            self._many(
                "UPDATE vector SET last = ?, numbers = ? WHERE user = ?",
                [(rounds, cells[k * width : (k + 1) * width], user) for k, (rounds, user) in enumerate(there)],
            )
            fresh = [(user,) for user, rounds in zip(who, before, strict=True) if not rounds]
            self._many("DELETE FROM vector WHERE user = ?", fresh)
        self.keep_note("attack", attack)
        self._execute("DELETE FROM note WHERE name = ?", f"{MEMORY}{server_round:012d}")
        self._execute("DELETE FROM history WHERE round = ?", server_round)

    def _kept(self, users: Ints) -> list[tuple[int, int, int, bytes]]:
        """The place, position among ``users``, last round and numbers of those who took part.

        What a round steps it has read before: the last rows are remembered until the transaction ends or changes them.
        """
        asked = json.dumps(users.tolist())
        if self._read is None or self._read[0] != asked:
            # CROSS JOIN: a look-up for each user asked for, and never a scan of everybody.
            query = (
                "SELECT v.place, j.key, v.last, v.numbers FROM json_each(?) j CROSS JOIN vector v ON v.user = j.value"
            )
            self._read = asked, self._execute(query, asked).fetchall()
        return self._read[1]

    def _make_tables(self) -> None:
        [found] = self._execute("PRAGMA user_version").fetchone()
        if found == FORMAT:
            return
        if found:
            raise OptionError(f"The node's state in this run was written by another version of this program ({found}).")
        for table in TABLES:
            self._execute(table)
        self._execute(f"PRAGMA user_version = {FORMAT}")

    def _execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        assert self._active is not None, "outside of a transaction"
        return self._active.execute(query, values)

    def _many(self, query: str, rows: list[tuple[Any, ...]]) -> None:
        assert self._active is not None, "outside of a transaction"
        self._active.executemany(query, rows)


def _in_memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


@contextmanager
def _explained(path: Path | None) -> Iterator[None]:
    """SQLite's errors as sentences; where the file lies stays in the node's log."""
    try:
        yield
    except sqlite3.Error as error:
        # The logger of Flower, of which nothing else is needed here.
        getLogger("flwr").error("%s: %s", path, error)
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_FULL") or (name.startswith("SQLITE_IOERR") and _is_full(path)):
            why = "No space left on the disk of this node's state-dir: free some"
        elif name.startswith("SQLITE_BUSY"):
            why = "Another process of this node did not end its round: end that process"
        elif name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            why = "The file that this node keeps its state in is damaged: give it back from a copy"
        else:
            why = f"This node's state-dir cannot be used ({error}): see that it can be written to"
        raise OSError(f"{why}. Nothing of this request was kept.") from error


def _is_full(path: Path | None) -> bool:
    if path is None:
        return False
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize < LEAST_ROOM
