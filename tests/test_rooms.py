"""The arrows of docs/architecture.md: who may import whom, read from the sources themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

BELOW = {
    "settings": set[str](),
    "draws": set[str](),
    "data": {"settings", "draws"},
    "models": {"settings", "draws", "data"},
    "metrics": {"settings", "draws", "data", "models"},
    "protocol": {"settings", "draws", "data", "models", "metrics"},
    "attacks": {"settings", "draws", "data", "models", "metrics", "protocol"},
    "strategies": {"settings", "draws", "data", "models", "metrics", "protocol"},
    "client": {"settings", "draws", "data", "models", "metrics", "protocol", "attacks", "strategies"},
    "server": {"settings", "draws", "data", "models", "metrics", "protocol", "attacks", "strategies"},
    "experiments": {
        "settings", "draws", "data", "models", "metrics", "protocol", "attacks", "strategies", "client", "server",
    },
}  # fmt: skip
"""What each room may import besides itself."""

EXCEPTIONS = {
    ("server/grids/engine.py", "client"): "the engine `local` calls the ClientApp in this process",
}

PURE = ("settings", "draws", "data", "models", "metrics", "attacks/recommenders", "attacks/updates",
        "attacks/images", "strategies/rules", "strategies/sparse")  # fmt: skip
"""Rooms that import neither Flower nor Ray."""


def sources(room: str) -> list[Path]:
    """The files of a room; a ``__main__.py`` is a command, which may collect from everywhere."""
    place = ROOT / room
    found = sorted(place.rglob("*.py")) if place.is_dir() else [ROOT / f"{room}.py"]
    return [path for path in found if path.name != "__main__.py"]


def imports(path: Path) -> Iterator[str]:
    """The top-level package of every import, those inside functions and for types alone included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_only_what_stands_below_it(room: str) -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), package)
        for path in sources(room)
        for package in imports(path)
        if package in BELOW and package != room and package not in BELOW[room]
    }
    assert sources(room)
    assert found <= set(EXCEPTIONS)


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_imports_neither_flower_nor_ray(room: str) -> None:
    found = {path.relative_to(ROOT).as_posix() for path in sources(room) if {"flwr", "ray"} & set(imports(path))}
    assert not found
