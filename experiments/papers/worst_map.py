"""The map of worst attacks: what a defense loses at most, and to which attack, by the share of malicious users."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.papers.tables import DASH, MINUS, Line, lines_of
from experiments.report.heatmap import paint
from experiments.report.sheet import Sheet
from experiments.report.style import drawing, save
from experiments.runner.completion import Completion
from experiments.runner.grid import Grid

Worst = dict[tuple[str, str], Line]
"""The line of the attack that costs most, by defense and share."""


def worst_of(lines: Sequence[Line]) -> Worst:
    """For each defense and share the line with the lowest change; lines without a change are left out.

    The line that all others are compared with has none.
    """
    worst: Worst = {}
    for line in lines:
        place = line.labels[:2]
        if line.change and (place not in worst or line.change.mean < _change(worst[place])):
            worst[place[0], place[1]] = line
    return worst


def map_sheet(grid: Grid, completion: Completion, notes: Sequence[str] = ()) -> Sheet:
    """A row for each defense, a column for each share: the worst change and its attack."""
    lines = lines_of(grid, completion)
    worst, (defenses, shares) = worst_of(lines), _axes(lines)
    rows = [[defense, *(_text(worst.get((defense, share))) for share in shares)] for defense in defenses]
    records = [
        {"defense": defense, "malicious": share, "attack": line.labels[2], "change": _change(line)}
        | {"half": line.change.half if line.change else None, "rounds": line.rounds}
        for (defense, share), line in worst.items()
    ]
    text = "Each cell: the attack that costs most, and the change of HR@5 (mean of the last five evaluations) against "
    text += (
        "the run of the same seed without attack and defense, averaged over seeds; 0 %: what the defense alone costs. "
    )
    text += "Rules that assume a number of attackers assume the column's share, at 0 % that of 1 %."
    missing = sum(line.last is None for line in lines)
    gaps = [f"{missing} of {len(lines)} runs are missing: a worst attack may be among them."] * bool(missing)
    uncompared = sorted({line.labels[0] for line in lines if line.last and line.change is None} - {defenses[0]})
    gaps += [f"Not compared, since after fewer rounds: {', '.join(uncompared)}."] * bool(uncompared)
    return Sheet(grid.title, ["defense", *shares], rows, records, [text, *gaps, *notes])


def map_figure(grid: Grid, completion: Completion, folder: Path) -> list[Path]:
    """The same as a heat map."""
    lines = lines_of(grid, completion)
    worst, (defenses, shares) = worst_of(lines), _axes(lines)
    changes = np.full((len(defenses), len(shares)), np.nan)
    names = dict[tuple[int, int], str]()
    for (defense, share), line in worst.items():
        at = defenses.index(defense), shares.index(share)
        changes[at], names[at] = 100 * _change(line), "" if share == shares[0] else line.labels[2]
    with drawing(1.8 + 1.1 * len(shares), 1.2 + 0.5 * len(defenses)) as (figure, axes):
        paint(axes, changes, defenses, shares, names)
        axes.set_xlabel("malicious users")
        axes.set_title(grid.title, fontsize=8)
        return save(figure, folder, grid.name)


def _axes(lines: Sequence[Line]) -> tuple[list[str], list[str]]:
    """Defenses and shares in the grid's order."""
    defenses, shares = ([line.labels[place] for line in lines] for place in (0, 1))
    return list(dict.fromkeys(defenses)), list(dict.fromkeys(shares))


def _text(line: Line | None) -> str:
    if line is None or line.change is None:
        return DASH
    change = line.change.percent().replace("-", MINUS)
    return change if line.labels[1] == "0 %" else f"{change} {line.labels[2]}"


def _change(line: Line) -> float:
    assert line.change is not None
    return line.change.mean
