"""The tutorial's commands, as they stand on its page but with fewer rounds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "tutorial.md").read_text(encoding="utf-8")
ROUNDS = 4


def blocks(kind: str) -> list[str]:
    """The page's examples of one kind, in order, with ``ROUNDS`` rounds each."""
    found = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [re.sub(r"(num.server.rounds=)\d+", rf"\g<1>{ROUNDS}", block) for block in found]


def test_the_tutorials_commands_do_what_it_says(tmp_path: Path) -> None:
    attack, from_python = blocks("python")
    (tmp_path / "my_attacks.py").write_text(attack)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": programs}

    def run(command: list[str]) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shown = [run(["bash", "-ec", block]) for block in blocks("sh")]
    results = tmp_path / "robust-fedrec" / "runs"
    assert {path.name for path in results.iterdir() if path.is_dir()} == {"honest", "attacked", "defended", "mine"}
    for name in ("honest", "attacked", "defended", "mine"):
        summary = json.loads((results / name / "summary.json").read_text())
        assert (summary["status"], summary["rounds"]) == ("completed", ROUNDS)
    [last] = [json.loads(text) for text in shown if text.startswith("{")]
    assert last["round"] == ROUNDS
    assert re.search(r"\S+\.html", shown[4])
    printed = run([sys.executable, "-c", from_python]).splitlines()
    assert any(line.startswith("completed {") for line in printed)
    assert printed[-1].endswith(".html")
    assert Path(printed[-1]).is_file()
