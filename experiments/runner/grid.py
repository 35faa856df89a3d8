"""What a table or figure is: a plan in, a grid of runs out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments.papers import paper
from experiments.runner.cell import Cell
from settings.options import Scalar
from settings.run import declaration


@dataclass(frozen=True)
class Plan:
    """What the command line asked for.

    ``attacker_seeds``: each seed with each of these choices of the malicious users; without any each seed draws its
    own. ``rounds_for``: fewer rounds for the defenses named, because they are slow; ``extra``: options for all runs;
    ``attacks``, ``defenses``: more than the paper's, in the grids that compare them.
    """

    dataset: str = "ml-1m"
    model: str = "mf"
    seeds: tuple[int, ...] = (0,)
    attacker_seeds: tuple[int, ...] = ()
    rounds: int = paper.ROUNDS
    rounds_for: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, Scalar] = field(default_factory=dict)
    attacks: tuple[str, ...] = ()
    defenses: tuple[str, ...] = ()

    @property
    def data(self) -> str:
        """What a title calls the data set: its name, or that of its file."""
        return Path(self.dataset).name

    @property
    def changed(self) -> dict[str, Scalar]:
        """The extra options that change numbers."""
        return {name: value for name, value in self.extra.items() if declaration(name).numbers}

    def rounds_of(self, defense: str) -> int:
        """How many rounds a run against this defense takes."""
        return self.rounds_for.get(defense, self.rounds)


@dataclass(frozen=True)
class Entry:
    """One line of a table: what stands in its first columns, and the runs of its seeds."""

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    printed: paper.Printed | None = None
    baseline: int | None = None


@dataclass(frozen=True)
class Grid:
    """A table or figure. ``heads``: what the labels are; an entry's ``baseline``: the line to compare it with."""

    name: str
    title: str
    heads: tuple[str, ...]
    entries: tuple[Entry, ...]
    metrics: tuple[str, ...] = ("hr@5",)
    notes: tuple[str, ...] = ()

    @property
    def cells(self) -> list[Cell]:
        """All runs, each once."""
        return list(dict.fromkeys(cell for entry in self.entries for cell in entry.cells))


def with_rounds(grid: Grid, rounds: int, usual: int) -> Grid:
    """The grid, whose title says the rounds where they are not the usual ones, the paper's."""
    return grid if rounds == usual else replace(grid, title=f"{grid.title}, {rounds} rounds")
