"""How far a run is, seen from outside: it writes a line a round and a line an evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO


@dataclass
class Follower:
    """Reads only what was added since it last looked.

    ``since``: when the run was started, in seconds since the epoch; older files are an earlier attempt's.
    """

    directory: Path
    since: float = 0.0
    rounds: int = 0
    latest: str = ""
    _files: dict[str, IO[bytes]] = field(default_factory=dict)

    def look(self) -> None:
        """Bring ``rounds`` and ``latest`` (the first test metric of the last evaluation, for people) up to date."""
        self.rounds += self._new("rounds.jsonl").count(b"\n")
        lines = self._new("metrics.jsonl").splitlines(keepends=True)
        for line in lines:
            try:
                metrics = json.loads(line)
            except ValueError:
                continue
            name, value = next(iter(metrics["test"].items()))
            self.latest = f"{name.upper()} {'unknown' if value is None else format(value, '.4f')}"
            self.rounds = max(self.rounds, metrics["round"])

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _new(self, name: str) -> bytes:
        if name not in self._files:
            path = self.directory / name
            try:
                if path.stat().st_mtime < self.since:
                    return b""
                self._files[name] = path.open("rb")
            except OSError:
                return b""
        return self._files[name].read()
