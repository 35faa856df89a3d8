"""What follows from a grid's numbers: each defense under its worst attack, and how fast a model recovers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.papers.tables import FEWER_ROUNDS, MINUS, Line, lines_of
from experiments.report.intervals import interval
from experiments.report.round_lines import evaluations
from experiments.report.sheet import Sheet
from experiments.runner.cell import Cell
from experiments.runner.completion import Completion
from experiments.runner.grid import Grid


def worst_case(grid: Grid, completion: Completion, notes: Sequence[str] = ()) -> Sheet:
    """Each defense under the attack that costs it most (HR@5, last five evaluations), the best defense first."""
    every = lines_of(grid, completion)
    most = max((line.rounds for line in every), default=0)
    worst: dict[str, Line] = {}
    for line in every:
        found = worst.get(line.labels[0])
        if line.change and (found is None or _change(line) < _change(found)):
            worst[line.labels[0]] = line
    honest = {line.labels[0]: line for line in every if line.labels[1] == "no attack"}
    rows, records = list[list[str]](), list[dict[str, Any]]()
    for defense, line in sorted(worst.items(), key=lambda item: -_last(item[1])):
        calm = honest[defense]
        mark = f" {FEWER_ROUNDS}" if line.rounds < most else ""
        assert line.last is not None
        assert calm.last is not None
        assert line.change is not None
        change = line.change.percent().replace("-", MINUS)
        rows.append([defense + mark, line.labels[1], line.last.text(), calm.last.text(), change])
        measured = {"rounds": line.rounds, "hr@5": _last(line), "change": _change(line)}
        records.append({"defense": defense, "attack": line.labels[1], **measured})
    columns = ["defense", "worst attack", "HR@5 under it", "HR@5 without attack", "change"]
    text = "HR@5: mean of the last five evaluations; change: against the run of the same seed and defense without "
    text += "attack, averaged over seeds."
    fewer = [f"{FEWER_ROUNDS} fewer rounds than {most}."] if any(row[0].endswith(FEWER_ROUNDS) for row in rows) else []
    missing = sum(line.last is None for line in every)
    gaps = [f"{missing} of {len(every)} runs are missing: a defense's worst attack may be among them."] * bool(missing)
    return Sheet(grid.title, columns, rows, records, [text, *fewer, *gaps, *notes])


def half_life(attacked: list[tuple[int, float]], honest: list[tuple[int, float]], stop: int) -> int | None:
    """Rounds after ``stop`` until the gap to the honest curve is at most half of what it was at ``stop``.

    Both are (round, HR@5) of the same evaluations; ``None`` where there was no gap, or it has not halved by the end.
    """
    gaps = {round_: calm - value for (round_, value), (_, calm) in zip(attacked, honest, strict=True)}
    before = [gap for round_, gap in gaps.items() if round_ <= stop]
    if not before or before[-1] <= 0:
        return None
    after = (round_ for round_, gap in gaps.items() if round_ > stop and gap <= before[-1] / 2)
    found = next(after, None)
    return None if found is None else found - stop


def recovery(grid: Grid, completion: Completion, runs: Path, notes: Sequence[str] = ()) -> Sheet:
    """For each defense the gap when the attack stops, its half-life, and the gap at the end."""
    rows, records = list[list[str]](), list[dict[str, Any]]()
    for calm, attacked in zip(grid.entries[::2], grid.entries[1::2], strict=True):
        for cell, other in zip(attacked.cells, calm.cells, strict=True):
            if cell not in completion.summaries or other not in completion.summaries:
                continue
            stop = int(cell.options["attack-stop"])
            ours, honest = _points(runs, cell), _points(runs, other)
            gaps = [(round_, calm_ - value) for (round_, value), (_, calm_) in zip(ours, honest, strict=True)]
            at_stop = [gap for round_, gap in gaps if round_ <= stop][-1]
            at_end = interval([gap for _, gap in gaps[-5:]])
            life = half_life(ours, honest, stop)
            seed = cell.options["seed"]
            assert at_end is not None
            texts = [f"{at_stop:+.4f}", str(life) if life is not None else "not reached", f"{at_end.mean:+.4f}"]
            rows.append([attacked.labels[0], str(seed), *texts])
            records.append(
                {"defense": attacked.labels[0], "seed": seed, "stop": stop, "gap": at_stop, "half_life": life}
                | {"gap_at_end": at_end.mean}
            )
    columns = ["defense", "seed", "gap when it stops", "half-life in rounds", "gap at the end"]
    text = "Gap: HR@5 of the run of the same seed and defense that nobody attacks, less that of the attacked one; "
    text += "at the end: over the last five evaluations. Half-life: rounds after the attack until the gap is halved."
    return Sheet(grid.title, columns, rows, records, [text, *notes])


def _points(runs: Path, cell: Cell) -> list[tuple[int, float]]:
    found = [(line["round"], line["test"]["hr@5"]) for line in evaluations(runs / cell.name)]
    return [(server_round, value) for server_round, value in found if value is not None]


def _last(line: Line) -> float:
    assert line.last is not None
    return line.last.mean


def _change(line: Line) -> float:
    assert line.change is not None
    return line.change.mean
