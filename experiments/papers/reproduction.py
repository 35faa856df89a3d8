"""All of the evidence, or as much as fits into some hours: which tables with how many seeds, most important first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.papers import paper, poisoning
from experiments.papers.agreement import NAME, agreement_figure, agreement_sheet
from experiments.papers.results import in_order, provenance, write, write_grid
from experiments.runner.cell import Cell
from experiments.runner.completion import Completion, Place, complete, survey
from experiments.runner.grid import Grid, Plan
from experiments.runner.grids import PAPERS, grids_of


@dataclass(frozen=True)
class Part:
    """A table with so many seeds."""

    command: str
    seeds: int
    dataset: str = "ml-1m"
    model: str = "mf"
    rounds: int = paper.ROUNDS

    @property
    def grid(self) -> Grid:
        """Its runs."""
        plan = Plan(self.dataset, self.model, tuple(range(self.seeds)), rounds=self.rounds)
        return grids_of([self.command], plan)[0]

    @property
    def table(self) -> tuple[str, str, str]:
        """What the same table with another number of seeds has in common with it."""
        return (self.command, self.dataset, self.model)


PARTS = (
    Part("table1", 5),
    Part("table3", 3),
    Part("union-targeted", 1),
    Part("table4", 3),
    Part("figure3", 3),
    Part("table5", 3),
    Part("targeted", 1),
    Part("defense-tax", 3),
    Part("figure2", 3),
    Part("figure4", 1),
    Part("table1", 10),
    Part("table3", 10),
    Part("table4", 10),
    Part("figure3", 10),
    Part("table5", 10),
    Part("table1", 3, model="sasrec"),
    Part("table3", 3, model="sasrec"),
    Part("deep-poisoning", 5, "mnist", "lenet", poisoning.ROUNDS),
    Part("figure2", 5),
    Part("recovery", 5),
    Part("ratios", 5),
    Part("readings", 5),
    Part("defense-tax", 5),
    Part("targeted", 3),
    Part("union-targeted", 3),
    Part("figure3", 1, model="sasrec"),
)
"""The most important first; what comes later with more seeds goes on with what is there."""


def cells_of(parts: Sequence[Part]) -> list[Cell]:
    """All their runs in the order in which they are made, each once."""
    return list(dict.fromkeys(cell for part in parts for cell in in_order([part.grid])))


def reproduce(
    parts: Sequence[Part], place: Place, output: Path, console: Console, hours: float, run: bool = True
) -> int:
    """Run what is missing and fits, then write every table of which there is a run; returns the exit status.

    Without ``run`` only what is there is written.
    """
    cells = cells_of(parts)
    completion = complete(cells, place, console, 3600 * hours) if run else survey(cells, place.runs)
    largest = {part.table: part for part in sorted(parts, key=lambda part: part.seeds)}
    written = list[Path]()
    for part in largest.values():
        if any(cell in completion.summaries for cell in part.grid.cells):
            folder = output if part.model in ("mf", "lenet") else output / part.model
            written += write_grid(part.grid, completion, place.runs, folder)
    written += _compare(list(largest.values()), completion, place.runs, output)
    missing = [cell for cell in cells if cell not in completion.summaries]
    console.print(f"{len(cells) - len(missing)} of {len(cells)} runs are there; {len(written)} files in {output}.")
    for cell, problem in completion.problems.items():
        console.print(f"{cell.name}: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if completion.problems else 0


def _compare(parts: Sequence[Part], completion: Completion, runs: Path, output: Path) -> list[Path]:
    """The paper's numbers and ours in one table and one figure."""
    grids = [part.grid for part in parts if part.command in PAPERS and part.model == "mf"]
    grids.sort(key=lambda grid: PAPERS.index(grid.name))
    used = list(dict.fromkeys(cell for grid in grids for cell in grid.cells))
    made = agreement_sheet(grids, completion, provenance(used, completion, runs))
    return [*write(made, output, NAME), *agreement_figure(grids, completion, output)]
