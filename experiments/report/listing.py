"""The runs of a folder at a glance: status, metrics, and the options in which they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.report.sheet import Sheet
from server.simulation import default_options

DASH = "—"
METRICS = ("hr@5", "ndcg@5", "er@10", "accuracy", "attack_success")


def runs_sheet(folder: Path) -> Sheet:
    """One line a run directory, the newest last; options that all runs share are left out.

    A directory without a summary is a run that goes on, or that was killed.
    """
    found = [(path.parent, _read(path)) for path in folder.glob("*/config.json")]
    found.sort(key=lambda pair: (pair[0] / "config.json").stat().st_mtime_ns)
    options = [{**default_options(), **config.get("options", {})} for _, config in found]
    differing = [name for name in default_options() if len({json.dumps(one[name]) for one in options}) > 1]
    left_out = {"output-dir", "run-name", "resume"}
    columns = [name for name in differing if name not in left_out]
    records = []
    for (directory, _), own in zip(found, options, strict=True):
        summary = _read(directory / "summary.json")
        metrics = summary.get("test_last_five") or {}
        record: dict[str, object] = {"run": directory.name, "status": summary.get("status", "no summary")}
        record |= {name: own[name] for name in columns}
        record |= {name: metrics[name] for name in METRICS if name in metrics}
        records.append(record)
    shown = ["run", "status", *columns, *(name for name in METRICS if any(name in record for record in records))]
    rows = [[_text(record.get(name)) for name in shown] for record in records]
    notes = [f"{len(records)} runs; metrics: test, mean of the last five evaluations."]
    return Sheet(f"Runs in {folder}", shown, rows, records, notes)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(value: object) -> str:
    if value is None:
        return DASH
    return f"{value:.4f}" if isinstance(value, float) and 1e-4 <= abs(value) < 1 else str(value)
