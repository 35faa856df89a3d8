"""An attacker's state after each round, so that it can go on after a crash, or from an earlier round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 20
"""A larger log is rewritten without the rounds that nobody goes back to."""


class AttackLog:
    """One line of JSON a round in the file ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, server_round: int, state: dict[str, float], keep_from: int) -> None:
        """The state after a round; what lies before round ``keep_from`` may be forgotten."""
        if self._path.exists() and self._path.stat().st_size > MOST_BYTES:
            lines = self._lines()
            older = [line for line in lines if line["round"] <= keep_from][-1:]
            self._rewrite(older + [line for line in lines if line["round"] > keep_from])
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"round": server_round, "state": state}) + "\n")

    def last(self) -> dict[str, float] | None:
        """The newest state, ``None`` where there is none."""
        lines = self._lines()
        return lines[-1]["state"] if lines else None

    def newest(self) -> int:
        """The round of the newest state, 0 where there is none."""
        lines = self._lines()
        return int(lines[-1]["round"]) if lines else 0

    def cut(self, server_round: int) -> None:
        """Forget what came after a round."""
        lines = self._lines()
        kept = [line for line in lines if line["round"] <= server_round]
        if len(kept) < len(lines):
            self._rewrite(kept)

    def _lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        whole = self._path.read_text(encoding="utf-8").split("\n")
        if whole[-1]:
            # Its process died while it wrote this line.
            self._rewrite([json.loads(line) for line in whole[:-1]])
        return [json.loads(line) for line in whole[:-1]]

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        partial.replace(self._path)
