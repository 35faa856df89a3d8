"""Parsed data sets kept as plain arrays, so that the next process opens them without reading them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from data.interactions import Interactions
from data.writable import writable_folder

VERSION = 2
"""Part of every key: raise it where parsing changes, so that what older code wrote is not used."""

HOME = Path("~/.cache/robust-fedrec")

ARRAYS = tuple(field.name for field in fields(Interactions) if field.name != "name")


def cached(name: str, sources: Sequence[Path], data_dir: Path, make: Callable[[], Interactions]) -> Interactions:
    """What ``make`` returns, from the cache if it was made before of the same sources, memory-mapped.

    A source is the same if its path, size and time of change are. The cache lies under ``data_dir/cache``,
    or ``HOME/cache`` where that cannot be written; with neither it warns and goes on without. An entry is
    written beside its place and renamed, so that processes at once see a whole entry or none.
    """
    key = _key(name, sources)
    directories = (data_dir / "cache", HOME.expanduser() / "cache")
    for directory in directories:
        found = _read(directory / key, name)
        if found is not None:
            return found
    interactions = make()
    problems = []
    for directory in directories:
        try:
            _write(directory / key, interactions)
        except OSError as error:
            problems.append(f"{directory}: {error.strerror or error}")
            continue
        return _read(directory / key, name) or interactions
    warnings.warn(f"{name} is not cached and will be parsed again next time ({'; '.join(problems)}).", stacklevel=2)
    return interactions


def _key(name: str, sources: Sequence[Path]) -> str:
    identity = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    digest = hashlib.sha256(json.dumps([VERSION, name, identity]).encode()).hexdigest()
    readable = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)
    return f"{readable[:60]}-{digest[:16]}"


def _read(entry: Path, name: str) -> Interactions | None:
    if not entry.is_dir():
        return None
    try:
        arrays = {
            array: np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None
            for array, path in _files(entry)
        }
        return Interactions(name, **arrays)  # type: ignore[arg-type]
    except (OSError, EOFError, ValueError, TypeError, AttributeError):
        # Not whole: a disk that failed, or somebody's cleaning up. It is parsed and written again.
        return None


def _write(entry: Path, interactions: Interactions) -> None:
    folder = writable_folder(entry.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=folder))
    temporary.chmod(0o755)
    try:
        for array, path in _files(temporary):
            values = getattr(interactions, array)
            if values is not None:
                np.save(path, values, allow_pickle=False)
        if entry.exists() and _read(entry, interactions.name) is None:
            shutil.rmtree(entry, ignore_errors=True)
        try:
            os.rename(temporary, entry)
        except OSError:
            # Another process was first; its entry holds the same.
            if not entry.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _files(entry: Path) -> Iterator[tuple[str, Path]]:
    return ((array, entry / f"{array}.npy") for array in ARRAYS)
