"""Figure 4: received updates in two dimensions, and how uniformities are distributed."""

from __future__ import annotations

from collections.abc import Sequence
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


def projected_updates(run: Path) -> Marked | None:
    """The recorded updates of a run on their first two principal components; ``None`` where none were recorded."""
    rounds = list(recorded_rounds(run))
    if not rounds:
        return None
    updates = concat([one.updates for one in rounds])
    malicious = np.concatenate([np.isin(one.updates.users.numpy(), one.malicious) for one in rounds])
    return Marked(principal_components(gram(updates, len(rounds[0].model.items))), malicious)


def uniformities(run: Path, first: int = 1) -> Marked:
    """The uniformity (n,) that UNION measured of each update from round ``first`` on, less its round's median.

    The model becomes more uniform by itself from round to round: only within a round do values compare.
    """
    values, malicious = list[float](), list[bool]()
    for line in round_lines(run):
        found = line["rules"].get("union")
        if found is None or line["round"] < first:
            continue
        guilty = set(line["malicious"])
        measured = -np.asarray(found["scores"])
        values += (measured - np.median(measured)).tolist()
        malicious += [user in guilty for user in seen_users(line, "union")]
    return Marked(np.asarray(values), np.asarray(malicious, dtype=np.bool_))


def figure4(grid: Grid, completion: Completion, runs: Path, folder: Path) -> list[Path]:
    """A column for each of the grid's runs: above the projection, below the densities of uniformities."""
    entries = [entry for entry in grid.entries if entry.cells[0] in completion.summaries]
    paths = list[Path]()
    for part in ("projection", "uniformity"):
        with drawing(4.2 * max(len(entries), 1), 3.4, max(len(entries), 1)) as (figure, axes):
            panels: Sequence[Any] = np.atleast_1d(axes).tolist()
            for panel, entry in zip(panels, entries, strict=False):
                cell = entry.cells[0]
                draw = _draw_projection if part == "projection" else _draw_densities
                draw(panel, runs / cell.name, cell.rounds)
                panel.set_title(entry.labels[0], fontsize=9)
            figure.suptitle(grid.title, fontsize=9)
            paths += save(figure, folder, f"{grid.name}-{part}")
    return paths


def _draw_projection(axes: Any, run: Path, rounds: int) -> None:
    marked = projected_updates(run)
    if marked is None:
        return
    for label, chosen, colour, marker in _groups(marked):
        points = marked.values[chosen]
        axes.scatter(points[:, 0], points[:, 1], s=14, c=colour, marker=marker, alpha=0.6, label=label)
    axes.set_xlabel("first component")
    axes.set_ylabel("second component")
    axes.legend()


def _draw_densities(axes: Any, run: Path, rounds: int) -> None:
    from scipy.stats import gaussian_kde

    marked = uniformities(run, rounds - rounds // 10 + 1)
    for label, chosen, colour, _ in _groups(marked):
        values = marked.values[chosen]
        if len(values) < 3 or np.ptp(values) == 0:
            continue
        grid = np.linspace(marked.values.min(), marked.values.max(), 400)
        density = gaussian_kde(values)(grid)
        style = "-" if label == "benign" else "--"
        axes.plot(grid, density, style, color=colour, label=f"{label} ({len(values)})")
        axes.fill_between(grid, density, color=colour, alpha=0.15)
    axes.set_xlabel("uniformity, less its round's median")
    axes.set_ylabel("density")
    if axes.lines:
        axes.legend()


def _groups(marked: Marked) -> tuple[tuple[str, Bools, str, str], ...]:
    return (("benign", ~marked.malicious, BENIGN, "o"), ("malicious", marked.malicious, MALICIOUS, "^"))
