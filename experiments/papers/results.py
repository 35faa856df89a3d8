"""A table or figure from the command to the files."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.papers import figures, projection, verdicts
from experiments.papers.poisoning import poisoning_sheet
from experiments.papers.poisoning_figure import poisoning_figure
from experiments.papers.promoted import promoted_sheet
from experiments.papers.tables import lines_of, sheet
from experiments.papers.worst_map import map_figure, map_sheet
from experiments.report.heatmap import heatmap
from experiments.report.sheet import Sheet
from experiments.runner import own_grid, worst_map
from experiments.runner.cell import Cell
from experiments.runner.completion import Completion, Place, complete, survey
from experiments.runner.grid import Grid
from experiments.runner.grids import PAPERS
from server.results.progress import clock


def make(grids: Sequence[Grid], place: Place, output: Path, console: Console, run: bool = True) -> int:
    """Run what is missing of all the grids, then write their files; returns the exit status.

    Without ``run`` only what is there is written.
    """
    cells = in_order(grids)
    completion = complete(cells, place, console) if run else survey(cells, place.runs)
    for grid in grids:
        paths = write_grid(grid, completion, place.runs, output)
        console.print("\n" + paths[0].read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
        console.print("Written: " + ", ".join(map(str, paths)), markup=False, highlight=False, soft_wrap=True)
    for cell, problem in completion.problems.items():
        console.print(f"{cell.name}: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if completion.problems else 0


def write_grid(grid: Grid, completion: Completion, runs: Path, output: Path) -> list[Path]:
    """The files of a grid, its table as Markdown first; returns their paths."""
    made = sheet_of(grid, completion, runs)
    return [*write(made, output, grid.name), *draw(grid, completion, runs, output)]


def in_order(grids: Sequence[Grid]) -> list[Cell]:
    """The runs of all grids, each once, one seed after another: what is interrupted has whole seeds."""
    cells = dict.fromkeys(cell for grid in grids for cell in grid.cells)
    return sorted(cells, key=lambda cell: int(cell.options["seed"]))


def names_of(command: str) -> Sequence[str]:
    """The grids of a command: itself, or all of the paper's."""
    return PAPERS if command == "all" else (command,)


def sheet_of(grid: Grid, completion: Completion, runs: Path) -> Sheet:
    """The grid's table."""
    notes = provenance(grid.cells, completion, runs)
    if grid.name == "worst-case":
        return verdicts.worst_case(grid, completion, notes)
    if grid.name == worst_map.NAME:
        return map_sheet(grid, completion, notes)
    if grid.name == "recovery":
        return verdicts.recovery(grid, completion, runs, notes)
    if grid.name == "deep-poisoning":
        return poisoning_sheet(grid, completion, runs, notes)
    if grid.name in ("targeted", "union-targeted"):
        return promoted_sheet(grid, completion, notes)
    return sheet(grid, completion, notes)


def draw(grid: Grid, completion: Completion, runs: Path, output: Path) -> list[Path]:
    """The grid's figures, if it has any and any of its runs is there."""
    if not any(cell in completion.summaries for cell in grid.cells):
        return []
    if grid.name == own_grid.NAME:
        lines = [line for line in lines_of(grid, completion) if line.metric == grid.metrics[0]]
        return heatmap(lines, grid.title, output, grid.name)
    if grid.name == worst_map.NAME:
        return map_figure(grid, completion, output)
    if grid.name == "figure2":
        return figures.figure2(grid, completion, output)
    if grid.name == "figure3":
        return figures.figure3(grid, completion, output)
    if grid.name == "figure4":
        return projection.figure4(grid, completion, runs, output)
    if grid.name == "recovery":
        return figures.recovery_figure(grid, completion, runs, output)
    if grid.name == "deep-poisoning":
        return poisoning_figure(grid, completion, runs, output)
    return []


def write(made: Sheet, output: Path, name: str) -> list[Path]:
    """The table as Markdown, CSV and LaTeX."""
    output.mkdir(parents=True, exist_ok=True)
    texts = {".md": made.markdown(), ".csv": made.csv(), ".tex": made.latex()}
    for ending, text in texts.items():
        (output / f"{name}{ending}").write_text(text, encoding="utf-8")
    return [output / f"{name}{ending}" for ending in texts]


def provenance(cells: Sequence[Cell], completion: Completion, runs: Path) -> list[str]:
    """How long the runs took, on what, and from which commits."""
    summaries = [completion.summaries[cell] for cell in cells if cell in completion.summaries]
    if not summaries:
        return []
    seconds = sum(summary["seconds"] for summary in summaries)
    made_by = [_made_by(runs, cell) for cell in cells if cell in completion.summaries]
    told = sorted(set(made_by) - {""})
    if unknown := made_by.count(""):
        told.append(f"unknown of {unknown} runs")
    text = f"{len(summaries)} of {len(cells)} runs, {clock(seconds)} in all (one core each), on {machine()}"
    return [f"{text}; commit {', '.join(told)}."]


def machine() -> str:
    """Processor and Python, for people."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return f"{processor}, Python {platform.python_version()}"


def _made_by(runs: Path, cell: Cell) -> str:
    try:
        return str(json.loads((runs / cell.name / "made_by.json").read_text(encoding="utf-8"))["commit"])
    except (OSError, ValueError, KeyError):
        return ""
