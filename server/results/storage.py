"""Writing that either happens completely or says in a sentence why it did not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StorageError(RuntimeError):
    """Results cannot be written; the text is a sentence for the person whose disk it is."""


@contextmanager
def storing(directory: Path) -> Iterator[None]:
    """Whatever the disk refuses inside becomes a ``StorageError``."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Results cannot be written to {directory}: {error.strerror or error}. What was written before is intact: "
            "make room, or make the folder writable, and go on from the last checkpoint with "
            f"resume='{directory}'."
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there completely, also after a power cut, or not at all. Raises ``OSError``."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
