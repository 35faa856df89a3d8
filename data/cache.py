"""Parsed data sets kept as plain arrays, so that the next process opens them without reading them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.interactions import Interactions
from data.texts import Texts
from data.writable import writable_folder
from settings.options import OptionError
from settings.paths import absolute

NPY = ".npy"

VERSION = 3
"""Part of every key: raise it where parsing changes, so that what older code wrote is not used."""

HOME = Path("~/.cache/robust-fedrec")

ARRAYS, TEXTS = ("splits", "items", "times"), ("user_ids", "item_ids", "titles")
"""The fields of ``Interactions`` that are kept."""

TEXT_ARRAYS = ("letters", "splits")
"""The fields of ``Texts``, which take a file each."""


def cached(
    name: str, sources: Sequence[Path], data_dir: Path, make: Callable[[], Interactions], columns: str = ""
) -> Interactions:
    """What ``make`` returns, from the cache if it was made before of the same sources, memory-mapped.

    A source is the same if its path, size and time of change are, and is read by the same ``columns``. The cache lies
    under ``data_dir/cache``, or ``HOME/cache`` where that cannot be written; with neither it warns and goes on
    without. An entry is written beside its place and renamed, so that processes at once see a whole entry or none.
    """
    key = _key(name, sources, columns)
    directories = [data_dir / "cache"]
    with suppress(OptionError):
        directories.append(absolute("data-dir", HOME) / "cache")
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


def _key(name: str, sources: Sequence[Path], columns: str) -> str:
    identity = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    digest = hashlib.sha256(json.dumps([VERSION, name, identity, columns]).encode()).hexdigest()
    readable = "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "-." else "_" for letter in name)
    return f"{readable[:60]}-{digest[:16]}"


def _read(entry: Path, name: str) -> Interactions | None:
    try:
        files = [path for path in entry.iterdir() if path.suffix == NPY]
        arrays = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in files}
        fields: dict[str, Any] = {field: arrays[field] for field in ARRAYS}
        for field in TEXTS:
            parts = {part: arrays[key] for part in TEXT_ARRAYS if (key := f"{field}.{part}") in arrays}
            fields[field] = Texts(**parts) if parts or field != "titles" else None
        return Interactions(name, **fields)
    except (OSError, EOFError, ValueError, TypeError, AttributeError, KeyError):
        # There is none, or it is not whole: a disk that failed, or somebody's cleaning up. It is parsed and written.
        return None


def _write(entry: Path, interactions: Interactions) -> None:
    folder = writable_folder(entry.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=folder))
    temporary.chmod(0o755)
    try:
        for name, values in _arrays(interactions):
            np.save(temporary / (name + NPY), values, allow_pickle=False)
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


def _arrays(interactions: Interactions) -> Iterator[tuple[str, NDArray[Any]]]:
    for field in ARRAYS:
        yield field, getattr(interactions, field)
    for field in TEXTS:
        texts = getattr(interactions, field)
        if texts is not None:
            yield from ((f"{field}.{part}", getattr(texts, part)) for part in TEXT_ARRAYS)
