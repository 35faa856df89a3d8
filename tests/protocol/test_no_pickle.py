"""Nothing that a file or a message holds is ever run: no pickle, and nothing that unpickles in secret."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "attacks",
    "client",
    "data",
    "experiments",
    "metrics",
    "models",
    "protocol",
    "server",
    "settings",
    "strategies",
    "deploy",
)
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}

PICKLING_METHODS = {"send", "recv"}
"""Of ``multiprocessing.connection``; ``send_bytes`` and ``recv_bytes`` are those that do not pickle."""
CALLS = {"eval", "exec", "compile", "__import__"}
UNPICKLING = {("torch", "load"), ("torch", "save"), ("pd", "read_pickle"), ("np", "save"), ("np", "load")}
ALLOWED = {("np", "save"), ("np", "load")}
"""With ``allow_pickle=False`` alone; NumPy loads without pickle by default, but the default may change."""


def offences(source: str) -> list[str]:
    found = []
    connected = "multiprocessing" in source
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [f"line {node.lineno}: {name}" for name in names if name.split(".")[0] in MODULES]  # type: ignore[attr-defined]
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            found.append(f"line {node.lineno}: {node.func.id}()")
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            call = (node.func.value.id, node.func.attr)
            safe = any(
                keyword.arg == "allow_pickle"
                and isinstance(keyword.value, ast.Constant)
                and keyword.value.value is False
                for keyword in node.keywords
            )
            if call[0] == "yaml" and not call[1].startswith("safe_"):
                found.append(f"line {node.lineno}: {'.'.join(call)} makes objects")
            if call in UNPICKLING and not (call in ALLOWED and safe):
                found.append(f"line {node.lineno}: {'.'.join(call)} without allow_pickle=False")
        if connected and isinstance(node.func, ast.Attribute) and node.func.attr in PICKLING_METHODS:
            found.append(f"line {node.lineno}: {node.func.attr}() of multiprocessing pickles")
        if any(keyword.arg == "weights_only" for keyword in node.keywords):
            found.append(f"line {node.lineno}: weights_only")
    return found


def test_there_are_sources_to_search() -> None:
    assert len(SOURCES) > 60


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_unpickles(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "import torch\ntorch.load(x)", "np.load(x)", "eval('1')",
     "np.load(x, allow_pickle=True)", "from joblib import load",
     "from multiprocessing.connection import Connection\nConnection(1).recv()"],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert offences(source)
