"""Make a grid complete: list its cells, run what is missing, say what could not be had."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.report.estimates import expected_seconds, measured
from experiments.runner.cell import Cell, finished, unavailable
from experiments.runner.grid_progress import GridProgress
from experiments.runner.pool import run_cells
from server.results.progress import clock
from settings.options import Scalar


@dataclass(frozen=True)
class Place:
    """Where runs are kept and how they are made: ``where`` are options that change no numbers."""

    runs: Path
    jobs: int = 1
    where: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """What there is of a grid: summaries of the finished cells, and why the others are missing."""

    summaries: Mapping[Cell, dict[str, Any]]
    problems: Mapping[Cell, str]


def survey(cells: Sequence[Cell], runs: Path) -> Completion:
    """What there is without running anything."""
    problems = {cell: reason for cell in cells if (reason := unavailable(cell))}
    summaries = {
        cell: summary for cell in cells if cell not in problems and (summary := finished(cell, runs)) is not None
    }
    return Completion(summaries, problems)


def complete(cells: Sequence[Cell], place: Place, console: Console, seconds: float = math.inf) -> Completion:
    """Run what is missing, ``place.jobs`` cells at a time, in the grid's order.

    A run that should not end within so many ``seconds`` from now is not begun.
    """
    found = survey(cells, place.runs)
    missing = [cell for cell in cells if cell not in found.summaries and cell not in found.problems]
    if not missing:
        return found
    seen = measured(place.runs)
    expected = {cell: expected_seconds(cell, seen) for cell in missing}
    total = sum(expected.values()) / max(1, min(place.jobs, len(missing)))
    deadline = time.monotonic() + seconds
    console.print(
        f"{len(missing)} of {len(cells)} runs are missing; {place.jobs} at a time, about {clock(total)}. "
        f"Run directories: {place.runs}",
        highlight=False,
        soft_wrap=True,
    )
    with GridProgress(missing, expected, place.jobs, console) as progress:
        failed = run_cells(
            missing,
            place.runs,
            place.jobs,
            progress,
            place.where,
            fits=lambda cell: time.monotonic() + expected[cell] <= deadline,
        )
    after = survey(cells, place.runs)
    return Completion(after.summaries, {**after.problems, **failed})


def listing(cells: Sequence[Cell], place: Place) -> str:
    """The cells, what is there of each, and how long the rest should take."""
    found, seen = survey(cells, place.runs), measured(place.runs)
    lines, total = list[str](), 0.0
    for cell in cells:
        if cell in found.problems:
            state = f"not available: {found.problems[cell]}"
        elif cell in found.summaries:
            state = "done"
        else:
            seconds = expected_seconds(cell, seen)
            total += seconds
            state = f"to run, about {clock(seconds)}"
        lines.append(f"{cell.name}  {cell.rounds} rounds  {state}")
    todo = len(cells) - len(found.summaries) - len(found.problems)
    lines.append(f"{len(cells)} runs, {todo} to run: about {clock(total / max(1, min(place.jobs, todo or 1)))}")
    return "\n".join(lines)
