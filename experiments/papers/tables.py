"""From the summaries of a grid's runs to a table: ours, the paper's, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.papers import paper
from experiments.report.crossed import Spread, crossed_interval, spread
from experiments.report.intervals import Interval, interval
from experiments.report.sheet import Sheet
from experiments.runner.cell import Cell
from experiments.runner.completion import Completion
from experiments.runner.grid import Entry, Grid

MINUS, DASH, FEWER_ROUNDS = "−", "—", "†"
TOLD_APART = {False: "differs", True: "cannot be told apart"}


@dataclass(frozen=True)
class Line:
    """One entry and metric. ``best``: at the round that is best on validation, as in the paper; ``last``: the mean of
    the last five evaluations. Changes are relative, against the baseline's run of the same seed, by ``last``;
    ``spread``: theirs by seeds and by choices of the malicious users, where these are crossed.
    """

    labels: tuple[str, ...]
    metric: str
    rounds: int
    best: Interval | None
    last: Interval | None
    change: Interval | None
    printed: float | None
    printed_change: float | None
    problem: str | None
    spread: Spread | None = None

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.best is None or self.printed is None else self.best.mean - self.printed

    @property
    def verdict(self) -> str | None:
        """Whether the paper's change lies in the interval of ours; ``None`` without either of them."""
        if self.change is None or self.change.half is None or self.printed_change is None:
            return None
        inside = abs(self.change.mean - self.printed_change) <= self.change.half
        return TOLD_APART[inside]


def lines_of(grid: Grid, completion: Completion) -> list[Line]:
    """The grid's lines, metric by metric."""
    return [_line(grid, entry, metric, completion) for entry in grid.entries for metric in grid.metrics]


def _line(grid: Grid, entry: Entry, metric: str, completion: Completion) -> Line:
    found = [completion.summaries[cell] for cell in entry.cells if cell in completion.summaries]
    baseline = None if entry.baseline is None else grid.entries[entry.baseline]
    compared = baseline is not None and baseline is not entry
    changes = _changes(entry, baseline, metric, completion) if baseline is not None and compared else []
    crossed = _crossed(entry, changes)
    printed = entry.printed.metrics.get(metric) if entry.printed else None
    reference = baseline.printed.metrics.get(metric) if baseline and compared and baseline.printed else None
    problem = next((completion.problems[cell] for cell in entry.cells if cell in completion.problems), None)
    return Line(
        labels=entry.labels,
        metric=metric,
        rounds=entry.cells[0].rounds,
        best=_estimate(entry, [_of(completion, cell, "test", metric) for cell in entry.cells]),
        last=_estimate(entry, [_of(completion, cell, "test_last_five", metric) for cell in entry.cells]),
        change=_estimate(entry, changes),
        printed=printed,
        printed_change=_printed_change(entry, metric, printed, reference),
        problem=problem or (None if found else "not run"),
        spread=None if crossed is None or not len(crossed) else spread(crossed),
    )


def _crossed(entry: Entry, values: Sequence[float | None]) -> NDArray[np.float64] | None:
    """Values (S, A) by seed and choice of malicious users; ``None`` where each seed draws its own.

    Seeds that lack a run are left out.
    """
    options = [cell.options for cell in entry.cells]
    seeds = len({one["seed"] for one in options})
    attackers = len({one.get("attacker-seed", one["seed"]) for one in options})
    if attackers == 1 or len(options) != seeds * attackers or not values:
        return None
    rows = [values[at : at + attackers] for at in range(0, len(values), attackers)]
    return np.array([row for row in rows if None not in row], dtype=float).reshape(-1, attackers)


def _estimate(entry: Entry, values: Sequence[float | None]) -> Interval | None:
    crossed = _crossed(entry, values)
    if crossed is None:
        return interval([value for value in values if value is not None])
    return crossed_interval(crossed) if len(crossed) else None


def _printed_change(entry: Entry, metric: str, printed: float | None, reference: float | None) -> float | None:
    if entry.printed is not None and entry.printed.change is not None:
        return entry.printed.change if metric == "hr@5" else None
    return printed / reference - 1 if printed is not None and reference else None


def _changes(entry: Entry, baseline: Entry, metric: str, completion: Completion) -> list[float | None]:
    """For each run of the entry, ``None`` where one of the two is missing."""
    found = list[float | None]()
    for cell, other in zip(entry.cells, baseline.cells, strict=True):
        ours = _of(completion, cell, "test_last_five", metric)
        reference = _of(completion, other, "test_last_five", metric)
        # Of a slow defense that gets fewer rounds nothing follows beside one that gets them all.
        known = ours is not None and reference and cell.rounds == other.rounds
        found.append(ours / reference - 1 if known else None)  # type: ignore[operator]
    return found


def _of(completion: Completion, cell: Cell, kind: str, metric: str) -> float | None:
    summary: Any = completion.summaries.get(cell)
    value = None if summary is None else summary[kind][metric]
    return None if value is None else float(value)


@dataclass(frozen=True)
class _Shown:
    """Which columns a table has beside those that every one has."""

    changes: bool
    printed: bool
    verdicts: bool
    spreads: bool


def sheet(grid: Grid, completion: Completion, notes: Sequence[str] = ()) -> Sheet:
    """The table of a grid."""
    lines = lines_of(grid, completion)
    most = max((line.rounds for line in lines), default=0)
    shown = _Shown(*(any(getattr(line, name) is not None for line in lines) for name in _NEEDED))
    columns = [*grid.heads, "metric", "ours (best on validation)"]
    columns += ["paper", "difference"] * shown.printed + ["ours (last five)"] + ["change"] * shown.changes
    columns += ["paper's change"] * (shown.changes and shown.printed) + ["the two changes"] * shown.verdicts
    columns += ["from seed to seed", "from attackers to attackers"] * shown.spreads
    rows = [_row(line, most, shown) for line in lines]
    fewer = sorted({line.rounds for line in lines if line.rounds < most})
    own = [f"{FEWER_ROUNDS} after {rounds} rounds instead of {most}." for rounds in fewer]
    records = [_record(grid, line) for line in lines]
    return Sheet(grid.title, columns, rows, records, [*_explained(lines, shown), *grid.notes, *own, *notes])


_NEEDED = ("change", "printed", "verdict", "spread")


def _row(line: Line, most: int, shown: _Shown) -> list[str]:
    mark = f" {FEWER_ROUNDS}" if line.rounds < most else ""
    missing = line.problem if line.problem == "not run" else "not available"
    row = [*line.labels, line.metric.upper(), (line.best.text() if line.best else missing or DASH) + mark]
    if shown.printed:
        row += [DASH if line.printed is None else f"{line.printed:.4f}"]
        row += [DASH if line.difference is None else _signed(line.difference)]
    row += [line.last.text() if line.last else DASH]
    if shown.changes:
        row += [line.change.percent() if line.change else DASH]
    if shown.changes and shown.printed:
        row += [DASH if line.printed_change is None else f"{100 * line.printed_change:+.1f} %"]
    if shown.verdicts:
        row += [line.verdict or DASH]
    if shown.spreads:
        found = (None, None) if line.spread is None else (line.spread.seeds, line.spread.attackers)
        row += [DASH if value is None else f"{100 * value:.1f} points" for value in found]
    return [text.replace("-", MINUS) if text[:1] == "-" else text for text in row]


def _record(grid: Grid, line: Line) -> dict[str, object]:
    record: dict[str, object] = dict(zip(grid.heads, line.labels, strict=True))
    record |= {"metric": line.metric, "rounds": line.rounds}
    for name in ("best", "last", "change"):
        value: Interval | None = getattr(line, name)
        record |= {name: value.mean if value else None, f"{name}_half": value.half if value else None}
    record |= {"seeds": line.best.count if line.best else 0, "paper": line.printed, "difference": line.difference}
    record |= {"paper_change": line.printed_change, "verdict": line.verdict, "problem": line.problem}
    if line.spread is not None:
        record |= {"by_seed": line.spread.seeds, "by_attackers": line.spread.attackers}
    return record


def _explained(lines: Sequence[Line], shown: _Shown) -> list[str]:
    seeds = sorted({line.best.count for line in lines if line.best})
    many = " to ".join(map(str, [seeds[0], seeds[-1]][: len(seeds)])) if seeds else "no"
    text = f"Test metrics over benign users, {many} {'run(s) a line' if shown.spreads else 'seed(s)'}"
    over = "seeds and choices of the malicious users" if shown.spreads else "seeds"
    text += f"; mean ± 95 % t-interval over {over}." if seeds and seeds[-1] > 1 else "; no interval for a single seed."
    text += " Best on validation: at the evaluation with the highest validation HR@5, as in the paper."
    if shown.changes:
        text += (
            " Change: of the last five evaluations' mean, against the run of the same seed in the line compared with."
        )
    if shown.printed:
        text += " The paper's values are means of five runs; difference: ours (best on validation) less the paper's."
    told = [text]
    if shown.verdicts:
        told.append(
            "The two changes: \"differs\" where the paper's lies outside the interval of ours. The paper's is taken as "
            "exact, since it gives no interval: with one, fewer would differ. An interval may also be too wide to tell."
        )
    if shown.spreads:
        told.append(
            "From seed to seed, from attackers to attackers: the standard deviation of the change that either kind of "
            "seed brings by itself (two-way analysis of variance)."
        )
    if any("+UNION" in label for line in lines for label in line.labels):
        told.append(paper.ORDER)
    problems = {line.problem for line in lines if line.problem and line.problem != "not run"}
    return [*told, *sorted(f"Not available: {problem}" for problem in problems)]


def _signed(value: float) -> str:
    return f"{value:+.4f}"
