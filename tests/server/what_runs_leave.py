"""Everything that a run leaves, without what depends on the clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLOCK = {"seconds", "evaluation_seconds", "rounds_per_second", "run", "timings"}


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clock(inner) for key, inner in value.items() if key not in CLOCK}
    return [without_clock(inner) for inner in value] if isinstance(value, list) else value


def results(directory: Path) -> dict[str, Any]:
    """All that a run leaves, without what depends on the clock."""
    found: dict[str, Any] = {"model": (directory / "model.safetensors").read_bytes()}
    for name in ("rounds.jsonl", "metrics.jsonl"):
        found[name] = [without_clock(json.loads(line)) for line in (directory / name).read_text().splitlines()]
    found["summary"] = without_clock(json.loads((directory / "summary.json").read_text()))
    return found


def nodes_state(directory: Path) -> dict[str, bytes]:
    """The users' private vectors of every node, with Adam's moments and last rounds, and the attacker's state."""
    found: dict[str, bytes] = {}
    for pattern in ("*.float32", "*.int64", "attack.jsonl"):
        for path in sorted((directory / "nodes").glob(f"*/*/{pattern}")):
            found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    return found
