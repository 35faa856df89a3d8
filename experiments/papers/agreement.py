"""Every number of the paper beside ours: one table, one figure, and how many of them agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.papers.tables import Line, lines_of
from experiments.report.sheet import Sheet
from experiments.report.style import COLOURS, drawing, save
from experiments.runner.completion import Completion
from experiments.runner.grid import Grid

NAME = "agreement"

NEAR = 0.1
"""How far from the paper's change the interval of ours may reach where the two agree: ten points."""

LOOKS = {"agrees": (COLOURS[2], "o"), "differs": (COLOURS[1], "s"), "cannot tell": (COLOURS[7], "D")}
"""Colour and mark of each judgement."""


def judged(line: Line) -> str | None:
    """What ours says of the paper's change; ``None`` where one of the two is missing.

    "differs" where the paper's lies outside the 95 % interval of ours; else "agrees" where the whole interval is
    within ``NEAR`` of the paper's, and "cannot tell" where it is wider, or one seed gives none.
    """
    if line.change is None or line.printed_change is None:
        return None
    if line.change.half is None:
        return "cannot tell"
    apart = abs(line.change.mean - line.printed_change)
    if apart > line.change.half:
        return "differs"
    return "agrees" if apart + line.change.half <= NEAR else "cannot tell"


def compared(grids: Sequence[Grid], completion: Completion) -> list[tuple[Grid, Line]]:
    """The lines of HR@5 that have a change of ours and one of the paper; each experiment once, by its first seed."""
    seen, found = set(), list[tuple[Grid, Line]]()
    for grid in grids:
        hit_ratios = [line for line in lines_of(grid, completion) if line.metric == "hr@5"]
        for entry, line in zip(grid.entries, hit_ratios, strict=True):
            pair = (entry.cells[0], None if entry.baseline is None else grid.entries[entry.baseline].cells[0])
            if judged(line) is not None and pair not in seen:
                seen.add(pair)
                found.append((grid, line))
    return found


def agreement_sheet(grids: Sequence[Grid], completion: Completion, notes: Sequence[str] = ()) -> Sheet:
    """One row a line of the paper's tables and figures that any of our runs can be compared with."""
    rows, records = list[list[str]](), list[dict[str, object]]()
    for grid, line in compared(grids, completion):
        assert line.change is not None
        assert line.printed_change is not None
        place = f"{grid.name}: {', '.join(label for label in line.labels if label)}"
        seeds, judgement = line.change.count, judged(line)
        rows.append([place, str(seeds), line.change.percent(), f"{100 * line.printed_change:+.1f} %", str(judgement)])
        records.append(
            {"place": place, "seeds": seeds, "change": line.change.mean, "half": line.change.half}
            | {"paper_change": line.printed_change, "judgement": judgement}
        )
    told = [str(record["judgement"]) for record in records]
    counts = ", ".join(f"{told.count(judgement)} {judgement}" for judgement in LOOKS)
    about = (
        f"{len(told)} changes of HR@5: {counts}. Change: of the last five evaluations' mean, in percent, against the "
        "run of the same seed without the attack (of Figure 2 with the same defense); mean ± 95 % t-interval over "
        "seeds. The paper's: from its printed or drawn means, taken as exact. Differs: the paper's change is outside "
        f"our interval. Agrees: our whole interval is within {100 * NEAR:.0f} points of it. Cannot tell: our interval "
        "is wider, or there is one seed."
    )
    columns = ["where", "seeds", "ours", "the paper's", "judgement"]
    return Sheet("The paper's changes and ours", columns, rows, records, [about, *notes])


def agreement_figure(grids: Sequence[Grid], completion: Completion, folder: Path) -> list[Path]:
    """A point for each change, ours over the paper's with its interval, coloured by what it says."""
    lines = [line for _, line in compared(grids, completion)]
    if not lines:
        return []
    with drawing(6, 5) as (figure, axes):
        for judgement, (colour, mark) in LOOKS.items():
            own = [line for line in lines if judged(line) == judgement]
            axes.errorbar(
                [100 * line.printed_change for line in own if line.printed_change is not None],
                [100 * line.change.mean for line in own if line.change],
                yerr=[100 * (line.change.half or 0.0) for line in own if line.change],
                fmt=mark,
                color=colour,
                markersize=4,
                capsize=2,
                linewidth=0.8,
                label=f"{judgement} ({len(own)})",
            )
        axes.axline((0, 0), slope=1, color="black", linewidth=0.8)
        axes.set_xlabel("the paper's change of HR@5, %")
        axes.set_ylabel("ours, % (last five evaluations, 95 % interval over seeds)")
        axes.legend()
        return save(figure, folder, NAME)
