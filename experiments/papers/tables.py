"""From the summaries of a grid's runs to a table: ours, the paper's, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.report.intervals import Interval, interval
from experiments.report.sheet import Sheet
from experiments.runner.cell import Cell
from experiments.runner.completion import Completion
from experiments.runner.grid import Entry, Grid

MINUS, DASH, FEWER_ROUNDS = "−", "—", "†"


@dataclass(frozen=True)
class Line:
    """One entry and metric. ``best``: at the round that is best on validation, as in the paper; ``last``: the mean of
    the last five evaluations. Changes are relative, against the baseline's run of the same seed, by ``last``.
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

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.best is None or self.printed is None else self.best.mean - self.printed


def lines_of(grid: Grid, completion: Completion) -> list[Line]:
    """The grid's lines, metric by metric."""
    return [_line(grid, entry, metric, completion) for entry in grid.entries for metric in grid.metrics]


def _line(grid: Grid, entry: Entry, metric: str, completion: Completion) -> Line:
    found = [completion.summaries[cell] for cell in entry.cells if cell in completion.summaries]
    baseline = None if entry.baseline is None else grid.entries[entry.baseline]
    compared = baseline is not None and baseline is not entry
    change = interval(_changes(entry, baseline, metric, completion)) if baseline is not None and compared else None
    printed = entry.printed.metrics.get(metric) if entry.printed else None
    reference = baseline.printed.metrics.get(metric) if baseline and compared and baseline.printed else None
    problem = next((completion.problems[cell] for cell in entry.cells if cell in completion.problems), None)
    return Line(
        labels=entry.labels,
        metric=metric,
        rounds=entry.cells[0].rounds,
        best=interval([summary["test"][metric] for summary in found]),
        last=interval([summary["test_last_five"][metric] for summary in found]),
        change=change,
        printed=printed,
        printed_change=_printed_change(entry, metric, printed, reference),
        problem=problem or (None if found else "not run"),
    )


def _printed_change(entry: Entry, metric: str, printed: float | None, reference: float | None) -> float | None:
    if entry.printed is not None and entry.printed.change is not None:
        return entry.printed.change if metric == "hr@5" else None
    return printed / reference - 1 if printed is not None and reference else None


def _changes(entry: Entry, baseline: Entry, metric: str, completion: Completion) -> list[float]:
    summaries = completion.summaries
    # Of a slow defense that gets fewer rounds nothing follows beside one that gets them all.
    pairs = [(a, b) for a, b in zip(entry.cells, baseline.cells, strict=False) if a.rounds == b.rounds]
    both = [(_last(summaries, a, metric), _last(summaries, b, metric)) for a, b in pairs]
    return [ours / reference - 1 for ours, reference in both if ours is not None and reference]


def _last(summaries: Any, cell: Cell, metric: str) -> float | None:
    return float(summaries[cell]["test_last_five"][metric]) if cell in summaries else None


def sheet(grid: Grid, completion: Completion, notes: Sequence[str] = ()) -> Sheet:
    """The table of a grid."""
    lines = lines_of(grid, completion)
    most = max((line.rounds for line in lines), default=0)
    changes, printed = (any(getattr(line, name) is not None for line in lines) for name in ("change", "printed"))
    columns = [*grid.heads, "metric", "ours (best on validation)"]
    columns += ["paper", "difference"] * printed + ["ours (last five)"]
    columns += ["change"] * changes + ["paper's change"] * (changes and printed)
    rows = [_row(line, most, changes, printed) for line in lines]
    fewer = sorted({line.rounds for line in lines if line.rounds < most})
    own = [f"{FEWER_ROUNDS} after {rounds} rounds instead of {most}." for rounds in fewer]
    records = [_record(grid, line) for line in lines]
    return Sheet(grid.title, columns, rows, records, [*_explained(lines, changes, printed), *grid.notes, *own, *notes])


def _row(line: Line, most: int, changes: bool, printed: bool) -> list[str]:
    mark = f" {FEWER_ROUNDS}" if line.rounds < most else ""
    missing = line.problem if line.problem == "not run" else "not available"
    row = [*line.labels, line.metric.upper(), (line.best.text() if line.best else missing or DASH) + mark]
    if printed:
        row += [DASH if line.printed is None else f"{line.printed:.4f}"]
        row += [DASH if line.difference is None else _signed(line.difference)]
    row += [line.last.text() if line.last else DASH]
    if changes:
        row += [line.change.percent() if line.change else DASH]
    if changes and printed:
        row += [DASH if line.printed_change is None else f"{100 * line.printed_change:+.1f} %"]
    return [text.replace("-", MINUS) if text[:1] == "-" else text for text in row]


def _record(grid: Grid, line: Line) -> dict[str, object]:
    record: dict[str, object] = dict(zip(grid.heads, line.labels, strict=True))
    record |= {"metric": line.metric, "rounds": line.rounds}
    for name in ("best", "last", "change"):
        value: Interval | None = getattr(line, name)
        record |= {name: value.mean if value else None, f"{name}_half": value.half if value else None}
    record |= {"seeds": line.best.count if line.best else 0, "paper": line.printed, "difference": line.difference}
    return record | {"paper_change": line.printed_change, "problem": line.problem}


def _explained(lines: Sequence[Line], changes: bool, printed: bool) -> list[str]:
    seeds = sorted({line.best.count for line in lines if line.best})
    many = " to ".join(map(str, [seeds[0], seeds[-1]][: len(seeds)])) if seeds else "no"
    text = f"Test metrics over benign users, {many} seed(s)"
    text += "; mean ± 95 % t-interval over seeds." if seeds and seeds[-1] > 1 else "; no interval for a single seed."
    text += " Best on validation: at the evaluation with the highest validation HR@5, as in the paper."
    if changes:
        text += (
            " Change: of the last five evaluations' mean, against the run of the same seed in the line compared with."
        )
    if printed:
        text += " The paper's values are means of five runs; difference: ours (best on validation) less the paper's."
    problems = {line.problem for line in lines if line.problem and line.problem != "not run"}
    return [text, *sorted(f"Not available: {problem}" for problem in problems)]


def _signed(value: float) -> str:
    return f"{value:+.4f}"
