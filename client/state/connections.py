"""Open connections to SQLite files: a few for each process, the least used ones closed first."""

from __future__ import annotations

import os
import sqlite3
from collections import OrderedDict
from pathlib import Path

from client.state.files import private_file, private_folder

MOST_OPEN = 64
"""Each connection has three files open, and a process may serve thousands of simulated nodes."""

PATIENCE = 600.0
"""Seconds to wait for another process that is in the middle of a round of the same node."""

SETTINGS = (
    # Half as many pages as with the default 4096 for a round of thousands of users; counts for a new file alone.
    "PRAGMA page_size = 8192",
    "PRAGMA journal_mode = WAL",
    # A round of 5,000 users writes about 1,000 pages; syncing the main file after each of those would double its cost.
    "PRAGMA wal_autocheckpoint = 4000",
    # Room for what a round of 5,000 users changes, which else is written twice; taken only where it is used.
    "PRAGMA cache_size = -32000",
)

_open: OrderedDict[tuple[int, Path], tuple[sqlite3.Connection, tuple[int, int]]] = OrderedDict()
"""By process and file, with the device and number of the file that was opened."""

_synced = False


def outlast_power_cuts() -> None:
    """From now on this process's commits are on the disk when they return, as what a deployed node answers for must be.

    Else a commit outlasts the death of every process, but not of the machine: on it simulated nodes die with
    their server, and syncing would cost them more than everything else that their state costs.
    """
    global _synced
    _synced = True


def connected(path: Path) -> sqlite3.Connection:
    """The process's connection to the file at ``path``, which is made where it is missing.

    A file that was removed or replaced since is opened anew. Raises ``OSError`` and ``sqlite3.Error``.
    """
    # A connection must not be carried over a fork, nor closed by the child.
    key = os.getpid(), path
    if key in _open:
        connection, opened = _open[key]
        if _identity(path) == opened:
            _open.move_to_end(key)
            return connection
        del _open[key]
        connection.close()
    private_folder(path.parent)
    private_file(path)
    connection = sqlite3.connect(path, PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        for setting in SETTINGS:
            connection.execute(setting)
        connection.execute(f"PRAGMA synchronous = {'FULL' if _synced else 'OFF'}")
    except sqlite3.Error:
        connection.close()
        raise
    _open[key] = connection, _identity(path)
    _close_idle()
    return connection


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (-1, -1)
    return found.st_dev, found.st_ino


def _close_idle() -> None:
    """Close this process's oldest where it has too many, but neither one in use nor the one just opened."""
    own = [key for key in _open if key[0] == os.getpid()]
    idle = [key for key in own[:-1] if not _open[key][0].in_transaction]
    for key in idle[: max(0, len(own) - MOST_OPEN)]:
        _open.pop(key)[0].close()
