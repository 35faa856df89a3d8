"""The tables of attacks that promote items: exposure and hit ratio, each beside the run that nobody attacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.papers.tables import DASH, Line, lines_of
from experiments.report.sheet import Sheet
from experiments.runner.completion import Completion
from experiments.runner.grid import Grid


def promoted_sheet(grid: Grid, completion: Completion, notes: Sequence[str] = ()) -> Sheet:
    """One row a line of the grid: each metric's mean of the last five evaluations with and without the attack."""
    found = {(line.labels, line.metric): line for line in lines_of(grid, completion)}
    rows, records = list[list[str]](), list[dict[str, Any]]()
    for entry in grid.entries:
        calm = grid.entries[entry.baseline or 0]
        record: dict[str, Any] = dict(zip(grid.heads, entry.labels, strict=True))
        row = list(entry.labels)
        for metric in grid.metrics:
            own, other = found[entry.labels, metric], found[calm.labels, metric]
            row += [_text(own), _text(other) if calm is not entry else ""]
            record |= {metric: _mean(own), f"{metric} without": _mean(other), "problem": own.problem}
        rows.append(row)
        records.append(record)
    columns = [*grid.heads, *(text for one in grid.metrics for text in (one.upper(), f"{one.upper()} without attack"))]
    problems = sorted({line.problem for line in found.values() if line.problem and line.problem != "not run"})
    return Sheet(
        grid.title, columns, rows, records, [*grid.notes, *(f"Not available: {one}" for one in problems), *notes]
    )


def _text(line: Line) -> str:
    return line.last.text() if line.last else line.problem if line.problem == "not run" else DASH


def _mean(line: Line) -> float | None:
    return line.last.mean if line.last else None
