"""Folders to write in."""

from __future__ import annotations

import errno
from pathlib import Path


def writable_folder(path: Path) -> Path:
    """The folder, made if need be. Raises ``PermissionError`` where it or the folder to make it in is read-only.

    The superuser may write anywhere, but a folder without any write permission was closed on purpose.
    """
    if not path.is_dir():
        writable_folder(path.parent)
        path.mkdir(exist_ok=True)
    if not path.stat().st_mode & 0o222:
        raise PermissionError(errno.EACCES, "it is read-only", str(path))
    return path
