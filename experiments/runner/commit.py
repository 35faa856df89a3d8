"""Which version of the code makes a result."""

from __future__ import annotations

import subprocess

from server.simulation import PROJECT


def commit() -> str:
    """The commit of the working tree in short, with a + where files differ from it; "" outside a repository."""
    try:
        asked = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(asked, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
