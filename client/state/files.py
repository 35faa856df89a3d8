"""Folders and files that only the node's own user may enter or read, whatever the umask."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER, FILE = 0o700, 0o600


def private_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, all with the mode 0700; what is there stays as it is."""
    if path.is_dir():
        return
    private_folder(path.parent)
    try:
        path.mkdir(FOLDER)
    except FileExistsError:
        return
    path.chmod(FOLDER)


def private_file(path: Path) -> None:
    """Make an empty file with the mode 0600 where there is none."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE)
    except FileExistsError:
        return
    try:
        os.fchmod(descriptor, FILE)
    finally:
        os.close(descriptor)
