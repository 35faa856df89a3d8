"""A fingerprint of the program, so that a server notices a node that runs another one."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

ROOMS = (
    "draws.py", "settings", "data", "models", "metrics", "protocol", "attacks", "strategies", "client",
)  # fmt: skip
"""What a node's answers depend on: the files and folders that it imports from."""


@cache
def code_fingerprint() -> str:
    """The fingerprint of the program that runs, wherever it was imported from."""
    return fingerprint_of(Path(__file__).resolve().parent.parent)


def fingerprint_of(root: Path) -> str:
    """16 hex digits over the names and contents of the rooms' source files under ``root``."""
    digest = hashlib.sha256()
    for room in ROOMS:
        place = root / room
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            name = path.relative_to(root).as_posix()
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
