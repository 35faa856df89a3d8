"""How a grid shows itself: bars on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from experiments.runner.cell import Cell
from server.results.progress import clock

LOG_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class GridProgress:
    """A bar for the grid with the time left, and one for each running cell.

    ``expected``: seconds that each cell should take; their proportions matter, the time left is
    corrected by what has been seen. ``labels``: what to call a cell instead of its own label.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        expected: Mapping[Cell, float],
        jobs: int,
        console: Console,
        labels: Mapping[Cell, str] | None = None,
    ) -> None:
        self._expected = expected
        self._labels = labels or {}
        self._jobs = max(1, min(jobs, len(cells) or 1))
        self._total = sum(expected[cell] for cell in cells)
        self._cells = len(cells)
        self._fractions: dict[Cell, float] = {}
        self._over: set[Cell] = set()
        self._started = time.monotonic()
        self._spoke = self._started
        self._live = console.is_terminal
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"))
        self._bars = Progress(*columns, console=console, transient=True, disable=not self._live)
        self._grid = self._bars.add_task("all", total=1.0, text="")
        self._tasks: dict[Cell, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def began(self, cell: Cell) -> None:
        """A cell was started, perhaps once more after another grid had it."""
        self._fractions[cell] = 0.0
        if cell not in self._tasks:
            self._tasks[cell] = self._bars.add_task(self._label(cell), total=cell.rounds, text="starting")

    def at(self, cell: Cell, rounds: int, latest: str) -> None:
        """A cell has done so many rounds; ``latest``: its newest metric, "" before the first."""
        self._fractions[cell] = min(1.0, rounds / cell.rounds)
        text = f"round {rounds}/{cell.rounds}  {latest}".rstrip() if rounds else "starting"
        self._bars.update(self._tasks[cell], completed=rounds, text=text)
        self._show()

    def ended(self, cell: Cell, problem: str | None) -> None:
        """A cell is over, well or with a problem."""
        self._fractions[cell] = 1.0
        self._over.add(cell)
        self._bars.remove_task(self._tasks[cell])
        if problem:
            self._console.print(f"{self._label(cell)} failed: {problem}", markup=False, highlight=False)
        self._show(speak=True)

    @property
    def seconds_left(self) -> float:
        """By what the cells should take, corrected by what they have taken so far."""
        done = sum(self._expected[cell] * fraction for cell, fraction in self._fractions.items())
        elapsed = time.monotonic() - self._started
        # The first seconds say little: until then the estimate stands.
        pace = elapsed / done if done > 0 and elapsed > 10 else 1 / self._jobs
        return (self._total - done) * pace

    def _show(self, speak: bool = False) -> None:
        done = sum(self._expected[cell] * fraction for cell, fraction in self._fractions.items())
        share = done / self._total if self._total else 1.0
        text = f"{len(self._over)}/{self._cells} runs, {clock(self.seconds_left)} left"
        self._bars.update(self._grid, completed=share, text=text)
        now = time.monotonic()
        if not self._live and (speak or now - self._spoke >= LOG_EVERY):
            self._spoke = now
            self._console.print(f"{share:4.0%}  {text}", highlight=False)

    def _label(self, cell: Cell) -> str:
        return self._labels.get(cell, cell.label)
