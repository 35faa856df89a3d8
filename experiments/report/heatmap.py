"""Heat maps: how much attacks change a metric under each defense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.papers.tables import Line
from experiments.report.style import drawing, save

WORST = 50.0
"""Percent of change at which the colours end."""


def heatmap(lines: Sequence[Line], title: str, folder: Path, name: str) -> list[Path]:
    """A panel for each data set and model, a row for each defense, a column for each attack; cells in percent.

    ``lines`` have the labels (data set, model, defense, attack); those without a change are left blank.
    """
    panels = list(dict.fromkeys(line.labels[:2] for line in lines))
    defenses = list(dict.fromkeys(line.labels[2] for line in lines))
    attacks = list(dict.fromkeys(line.labels[3] for line in lines if line.change))
    if not attacks:
        return []
    with drawing((1.6 + 0.9 * len(attacks)) * len(panels), 1.4 + 0.4 * len(defenses), len(panels)) as (figure, axes):
        drawn: list[Any] = np.atleast_1d(axes).tolist()
        for panel, labels in zip(drawn, panels, strict=True):
            changes = np.full((len(defenses), len(attacks)), np.nan)
            for line in lines:
                if line.labels[:2] == labels and line.change:
                    changes[defenses.index(line.labels[2]), attacks.index(line.labels[3])] = 100 * line.change.mean
            paint(panel, changes, defenses, attacks, {})
            panel.set_xticks(range(len(attacks)), attacks, rotation=30, ha="right")
            panel.set_title(" / ".join(labels), fontsize=8)
        figure.suptitle(title, fontsize=9)
        return save(figure, folder, name)


def paint(
    axes: Any,
    changes: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    names: Mapping[tuple[int, int], str],
) -> None:
    """Draw changes (rows, columns) in percent, NaN left blank, each over the name of its cell where it has one."""
    axes.imshow(changes, cmap="RdBu", vmin=-WORST, vmax=WORST, aspect="auto")
    for (row, column), change in np.ndenumerate(changes):
        if np.isfinite(change):
            colour = "white" if abs(change) > 0.7 * WORST else "black"
            name = names.get((row, column), "")
            text = f"{change:+.0f} %" + (f"\n{name}" if name else "")
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7 if name else 8)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)
