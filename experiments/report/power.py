"""How many seeds a table needs until its intervals are as narrow as one wants."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats

from experiments.papers.tables import Line
from experiments.report.intervals import CONFIDENCE
from experiments.report.sheet import Sheet

MOST_SEEDS = 10_000


def seeds_for(deviation: float, width: float) -> int | None:
    """The fewest seeds whose 95 % t-interval of the mean is at most ``width`` wide, values spreading by ``deviation``.

    Both in the same unit; ``None`` where more than ``MOST_SEEDS`` are needed.
    """
    for count in range(2, MOST_SEEDS):
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
        if 2 * quantile * deviation <= width * math.sqrt(count):
            return count
    return None


def power_sheet(lines: Sequence[Line], title: str, width: float) -> Sheet:
    """For each line: its paired change over the seeds at hand, how far seeds spread, and how many would be needed.

    ``width`` in percentage points, from one end of the interval to the other. The deviation is an estimate of few
    seeds, and so is what follows from it.
    """
    columns = ["line", "metric", "seeds", "change", "deviation of a seed", f"seeds for a width of {width:g} points"]
    rows, records = [], []
    for line in lines:
        change = line.change
        if change is None or change.half is None:
            continue
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, change.count - 1))
        deviation = 100 * change.half * math.sqrt(change.count) / quantile
        needed = seeds_for(deviation, width)
        name = ", ".join(label for label in line.labels if label)
        rows.append(
            [
                name,
                line.metric.upper(),
                str(change.count),
                change.percent(),
                f"{deviation:.1f} points",
                str(needed or "—"),
            ]
        )
        records.append({"line": name, "metric": line.metric, "deviation": deviation, "width": width, "seeds": needed})
    notes = ["Paired changes against the line compared with; a line needs two seeds or more to be told."]
    return Sheet(title, columns, rows, records, notes)
