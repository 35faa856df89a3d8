"""Figures 2 and 3, and the recovery after an attack, out of their grids' tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.papers.tables import FEWER_ROUNDS, Line, lines_of
from experiments.report.round_lines import evaluations
from experiments.report.style import COLOURS, HATCHES, drawing, save
from experiments.runner.cell import Cell
from experiments.runner.completion import Completion
from experiments.runner.grid import Grid


def figure2(grid: Grid, completion: Completion, folder: Path) -> list[Path]:
    """A group of bars for each defense, a bar for each attack (HR@5, best on validation), the paper's as marks."""
    lines = lines_of(grid, completion)
    defenses = list(dict.fromkeys(line.labels[0] for line in lines))
    attacks = list(dict.fromkeys(line.labels[1] for line in lines))
    most = max(line.rounds for line in lines)
    width = 0.8 / len(attacks)

    def places(some: Sequence[Line], number: int) -> list[float]:
        return [defenses.index(line.labels[0]) - 0.4 + (number + 0.5) * width for line in some]

    with drawing(11, 4) as (figure, axes):
        for number, attack in enumerate(attacks):
            own = [line for line in lines if line.labels[1] == attack and line.best]
            axes.bar(
                places(own, number),
                [line.best.mean for line in own if line.best],
                width,
                yerr=_halves(own),
                color=COLOURS[number % len(COLOURS)],
                edgecolor="white",
                hatch=HATCHES[number % len(HATCHES)],
                linewidth=0.4,
                error_kw={"linewidth": 0.8},
                label=attack,
            )
        for number, attack in enumerate(attacks):
            known = [line for line in lines if line.labels[1] == attack and line.printed is not None]
            label = "the paper" if number == 0 else None
            axes.scatter(
                places(known, number),
                [line.printed for line in known],
                marker="_",
                color="black",
                zorder=3,
                label=label,
            )
        fewer = {line.labels[0] for line in lines if line.rounds < most}
        names = [f"{name} {FEWER_ROUNDS}" if name in fewer else name for name in defenses]
        axes.set_xticks(range(len(defenses)), names, rotation=15, ha="right")
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("HR@5")
        axes.set_title(grid.title)
        figure.legend(loc="outside lower center", ncols=len(attacks) + 1)
        return save(figure, folder, grid.name)


def figure3(grid: Grid, completion: Completion, folder: Path) -> list[Path]:
    """How much HR@5 falls under ClusterAttack over the initial K, adaptive and fixed; hollow marks are the paper's."""
    lines = lines_of(grid, completion)
    with drawing(5.5, 3.6) as (figure, axes):
        for number, kind in enumerate(("adaptive", "fixed")):
            own = [line for line in lines if line.labels[0] == kind and line.change]
            style = {"color": COLOURS[number], "marker": "os"[number]}
            axes.errorbar(
                [int(line.labels[1]) for line in own],
                [-100 * line.change.mean for line in own if line.change],
                yerr=_percent_halves(own),
                linestyle=("-", "--")[number],
                capsize=2,
                label=f"{kind} K",
                **style,
            )
            known = [line for line in lines if line.labels[0] == kind and line.printed_change is not None]
            axes.plot(
                [int(line.labels[1]) for line in known],
                [-100 * line.printed_change for line in known if line.printed_change is not None],
                linestyle=":",
                fillstyle="none",
                label=f"{kind} K, the paper",
                **style,
            )
        axes.set_xscale("log", base=2)
        ticks = sorted({int(line.labels[1]) for line in lines if line.labels[1]})
        axes.set_xticks(ticks, map(str, ticks))
        axes.set_xlabel("initial K")
        axes.set_ylabel("decrease of HR@5, % (last five evaluations)")
        axes.set_title(grid.title, fontsize=8)
        axes.legend()
        return save(figure, folder, grid.name)


def recovery_figure(grid: Grid, completion: Completion, runs: Path, folder: Path) -> list[Path]:
    """HR@5 over rounds with and without the attack that stops, a colour for each defense."""
    with drawing(7, 3.8) as (figure, axes):
        for number in range(0, len(grid.entries), 2):
            for at, style in ((number, ":"), (number + 1, "-")):
                entry = grid.entries[at]
                rounds, values = mean_curve([cell for cell in entry.cells if cell in completion.summaries], runs)
                label = ", ".join(entry.labels)
                axes.plot(rounds, values, style, color=COLOURS[number // 2], label=label)
        for stop in {float(entry.cells[0].options["attack-stop"]) for entry in grid.entries[1::2]}:
            axes.axvline(stop, color=COLOURS[7], linewidth=0.8)
        axes.set_xlabel("round")
        axes.set_ylabel("HR@5")
        axes.set_title(grid.title, fontsize=8)
        axes.legend(fontsize=7)
        return save(figure, folder, grid.name)


def mean_curve(cells: Sequence[Cell], runs: Path) -> tuple[list[int], list[float]]:
    """Rounds, and the mean over seeds of test HR@5, without rounds in which a seed's is unknown."""
    curves = [evaluations(runs / cell.name) for cell in cells]
    points = [at for at in zip(*curves, strict=False) if all(line["test"]["hr@5"] is not None for line in at)]
    means = [sum(line["test"]["hr@5"] for line in point) / len(point) for point in points]
    return [point[0]["round"] for point in points], means


def _halves(lines: Sequence[Line]) -> Any:
    halves = [line.best.half for line in lines if line.best]
    return None if any(half is None for half in halves) else halves


def _percent_halves(lines: Sequence[Line]) -> Any:
    halves = [line.change.half for line in lines if line.change]
    return None if any(half is None for half in halves) else [100 * (half or 0.0) for half in halves]
