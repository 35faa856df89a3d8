"""Figure 4: received updates in two dimensions, and how their uniformities are distributed, ten rounds a column."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.report.round_lines import round_lines, seen_users
from experiments.report.style import BENIGN, MALICIOUS, drawing, save
from experiments.runner.completion import Completion
from experiments.runner.grid import Grid
from protocol.updates import Updates, concat
from server.results.update_log import recorded_rounds

ITEMS_AT_ONCE = 128
"""Items whose rows are made dense at a time."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Marked:
    """``values`` (n, …) of n updates, and which of them are ``malicious`` (n,)."""

    values: Floats
    malicious: Bools


def gram(updates: Updates, num_items: int) -> Floats:
    """(n, n) inner products of n sparse updates, a few items dense at a time; never all of n·num_items·d numbers."""
    total = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    total += updates.shared.double() @ updates.shared.double().T
    order = updates.items.argsort()
    items, owner = updates.items[order], updates.row_owner[order]
    for first in range(0, num_items, ITEMS_AT_ONCE):
        begin, end = torch.searchsorted(items, torch.tensor([first, first + ITEMS_AT_ONCE])).tolist()
        dense = torch.zeros(len(updates), ITEMS_AT_ONCE, updates.dim)
        dense[owner[begin:end], items[begin:end] - first] = updates.rows[order[begin:end]]
        flat = dense.flatten(1)
        total += (flat @ flat.T).double()
    return np.asarray(total.numpy())


def principal_components(inner: Floats, count: int = 2) -> Floats:
    """(n, count) coordinates on the first principal components, from inner products (n, n) of uncentred vectors."""
    centred = inner - inner.mean(0) - inner.mean(1)[:, None] + inner.mean()
    values, vectors = np.linalg.eigh(centred)
    chosen = np.argsort(values)[::-1][:count]
    return np.asarray(vectors[:, chosen] * np.sqrt(np.clip(values[chosen], 0, None)))


COLUMN = 10
"""Rounds that a column of the figure shows."""


def columns_of(rounds: int) -> list[range]:
    """The rounds of each column: 1 to 10, 11 to 20, …"""
    return [range(first, min(first + COLUMN, rounds + 1)) for first in range(1, rounds + 1, COLUMN)]


def projected_updates(run: Path, rounds: range) -> Marked | None:
    """The recorded updates of these rounds on their own first two principal components; ``None`` for no updates."""
    found = [one for one in recorded_rounds(run) if one.server_round in rounds]
    if not found:
        return None
    updates = concat([one.updates for one in found])
    malicious = np.concatenate([np.isin(one.updates.users.numpy(), one.malicious) for one in found])
    return Marked(principal_components(gram(updates, len(found[0].model.items))), malicious)


def uniformities(run: Path, rounds: range) -> Marked:
    """The uniformity (n,) that UNION measured of each update of these rounds."""
    values, malicious = list[float](), list[bool]()
    for line in round_lines(run):
        found = line["rules"].get("union")
        if found is None or line["round"] not in rounds:
            continue
        guilty = set(line["malicious"])
        # A score is how far an update lies below its round's mean.
        values += (found["mean_uniformity"] - np.asarray(found["scores"])).tolist()
        malicious += [user in guilty for user in seen_users(line, "union")]
    return Marked(np.asarray(values), np.asarray(malicious, dtype=np.bool_))


def figure4(grid: Grid, completion: Completion, runs: Path, folder: Path) -> list[Path]:
    """Five columns of ten rounds: updates projected, and densities of uniformities with and without the task."""
    entries = [entry for entry in grid.entries if entry.cells[0] in completion.summaries]
    columns = columns_of(min(entry.cells[0].rounds for entry in entries))[:5]
    with drawing(3 * len(columns), 2.6 * (1 + len(entries)), len(columns), 1 + len(entries)) as (figure, axes):
        panels: Any = np.asarray(axes).reshape(1 + len(entries), len(columns))
        for column, rounds in enumerate(columns):
            panels[0, column].set_title(f"rounds {rounds.start} to {rounds.stop - 1}", fontsize=9)
            _draw_projection(panels[0, column], runs / entries[0].cells[0].name, rounds)
            for row, entry in enumerate(entries, 1):
                _draw_densities(panels[row, column], runs / entry.cells[0].name, rounds)
        for row, entry in enumerate(entries, 1):
            panels[row, 0].set_ylabel(f"density\n{entry.labels[0]}", fontsize=8)
        figure.suptitle(grid.title, fontsize=9)
        return save(figure, folder, grid.name)


def _draw_projection(axes: Any, run: Path, rounds: range) -> None:
    marked = projected_updates(run, rounds)
    if marked is None:
        return
    for label, chosen, colour, marker in _groups(marked):
        points = marked.values[chosen]
        axes.scatter(points[:, 0], points[:, 1], s=14, c=colour, marker=marker, alpha=0.6, label=label)
    axes.set_xlabel("first component")
    axes.legend(fontsize=7)


def _draw_densities(axes: Any, run: Path, rounds: range) -> None:
    from scipy.stats import gaussian_kde

    marked = uniformities(run, rounds)
    for label, chosen, colour, _ in _groups(marked):
        values = marked.values[chosen]
        if len(values) < 3 or np.ptp(values) == 0:
            continue
        grid = np.linspace(marked.values.min(), marked.values.max(), 400)
        density = gaussian_kde(values)(grid)
        style = "-" if label == "benign" else "--"
        axes.plot(grid, density, style, color=colour, label=f"{label} ({len(values)})")
        axes.fill_between(grid, density, color=colour, alpha=0.15)
    axes.set_xlabel("uniformity")
    if axes.lines:
        axes.legend(fontsize=7)


def _groups(marked: Marked) -> tuple[tuple[str, Bools, str, str], ...]:
    return (("benign", ~marked.malicious, BENIGN, "o"), ("malicious", marked.malicious, MALICIOUS, "^"))
