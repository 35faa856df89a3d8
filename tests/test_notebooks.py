"""The notebooks in ``docs/notebooks`` were executed, and their cells run: as they stand, but with fewer rounds."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_was_executed_and_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, as a module of its own: a kernel for each would take longer than what it runs."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)
    notebook = ModuleType(path.stem)
    monkeypatch.setitem(sys.modules, path.stem, notebook)
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    source = "\n".join("".join(cell["source"]) for cell in cells)
    source, number = re.subn(r"^ROUNDS = \d+$", "ROUNDS = 2", source, flags=re.MULTILINE)
    assert number == 1
    exec(compile(source, path.name, "exec"), vars(notebook))
