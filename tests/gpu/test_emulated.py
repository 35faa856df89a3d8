"""What runs on a GPU runs on the emulated one in every suite; with a real GPU it runs there."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
PROJECT = FOLDER.parents[1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="the emulated device is compiled, and there is no g++")
@pytest.mark.skipif(importlib.util.find_spec("yaml") is None, reason="torch's device rules are read by PyYAML")
def test_everything_that_runs_on_a_gpu() -> None:
    """In a process of its own: the emulation must be loaded before torch."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / "on_device.py")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
