"""Effectiveness, persistence and stealth of the attacks on image classifiers, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.papers.poisoning import ATTACKS, stop_of, success_curve
from experiments.report.round_lines import judged, round_lines
from experiments.report.style import COLOURS, drawing, save
from experiments.runner.cell import Cell
from experiments.runner.completion import Completion
from experiments.runner.grid import Grid

DETECTORS = {"accuracy check": "-", "distance range": "--"}
"""With the style of their curves."""


def poisoning_figure(grid: Grid, completion: Completion, runs: Path, folder: Path) -> list[Path]:
    """Three panels, a colour for each attack; the first seed of each run.

    Effectiveness: success while the attack lasts, without defense. Persistence: success after it stopped, dotted under
    FL-WBC. Stealth: the share of the attackers' updates that each detector has flagged so far.
    """
    found = {
        entry.labels: entry.cells[0] for entry in grid.entries if entry.cells[0] in completion.summaries
    }  # The first seed stands for all.
    with drawing(12, 3.8, 3) as (figure, (effect, life, stealth)):
        for number, attack in enumerate(name for name in ATTACKS if name != "no attack"):
            look = {"color": COLOURS[number]}
            for defense, style in (("no defense", "-"), ("FL-WBC", ":")):
                one = found.get((attack, defense))
                if one is not None:
                    _success(effect if defense == "no defense" else None, life, one, runs, style, attack, look)
            for detector, style in DETECTORS.items():
                one = found.get((attack, detector))
                if one is not None:
                    stealth.plot(*flagged_so_far(runs / one.name, stop_of(one)), style, **look)
        for axes, title, label in (
            (effect, "effectiveness (no defense)", "round"),
            (life, "persistence (dotted: FL-WBC)", "rounds since the attack stopped"),
            (stealth, "stealth: attackers flagged (dashed: distance range)", "round"),
        ):
            axes.set_title(title, fontsize=9)
            axes.set_xlabel(label)
            axes.set_ylim(-0.03, 1.03)
        effect.set_ylabel("attack success")
        figure.suptitle(grid.title, fontsize=9)
        figure.legend(loc="outside lower center", ncols=len(ATTACKS))
        return save(figure, folder, grid.name)


def flagged_so_far(run: Path, stop: int) -> tuple[list[int], list[float]]:
    """Rounds, and the share of the malicious updates up to each that rules dropped."""
    rounds, shares, malicious, caught = list[int](), list[float](), 0, 0
    for line, guilty, dropped in judged(round_lines(run)):
        if line["round"] > stop or not guilty:
            continue
        malicious += len(guilty)
        caught += len(dropped & guilty)
        rounds.append(line["round"])
        shares.append(caught / malicious)
    return rounds, shares


def _success(
    effect: Any | None, life: Any, one: Cell, runs: Path, style: str, attack: str, look: dict[str, str]
) -> None:
    stop, curve = stop_of(one), success_curve(runs / one.name)
    until = {number: value for number, value in curve.items() if number <= stop}
    since = {number - stop: value for number, value in curve.items() if number >= stop}
    if effect is not None:
        effect.plot(list(until), list(until.values()), style, label=attack, **look)
    life.plot(list(since), list(since.values()), style, **look)
