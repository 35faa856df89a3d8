"""Two kinds of seeds, crossed: what training draws, and who is malicious. How far each moves a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from experiments.report.intervals import CONFIDENCE, Interval, interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a value from seed to seed, and from one choice of malicious users to another.

    ``None`` where there is one of them only.
    """

    seeds: float | None
    attackers: float | None


def crossed_interval(values: Floats) -> Interval:
    """The 95 % interval of the mean of values (S, A) of S seeds, each with the same A choices of malicious users.

    Both are samples, so that values of one row, or of one column, are not independent: the mean's variance is
    (M_S + M_A − M_E)/(S·A) of the two-way mean squares, at least what either kind alone gives, with Satterthwaite's
    degrees of freedom (1946). With a single row or column it is Student's interval of the other.
    """
    seeds, attackers = values.shape
    if 1 in values.shape:
        found = interval(values.ravel().tolist())
        assert found is not None
        return found
    by_seed, by_attackers, rest = _mean_squares(values)
    squares = max(by_seed + by_attackers - rest, by_seed, by_attackers)
    parts = by_seed**2 / (seeds - 1) + by_attackers**2 / (attackers - 1) + rest**2 / ((seeds - 1) * (attackers - 1))
    freedom = max(1.0, squares**2 / parts) if parts else 1.0
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    return Interval(float(values.mean()), quantile * math.sqrt(squares / values.size), values.size)


def spread(values: Floats) -> Spread:
    """The components of the values' (S, A) variance, as deviations; an estimate below 0 counts as 0."""
    seeds, attackers = values.shape
    if 1 in values.shape:
        only = float(values.std(ddof=1)) if values.size > 1 else None
        return Spread(only if attackers == 1 else None, only if seeds == 1 else None)
    by_seed, by_attackers, rest = _mean_squares(values)
    return Spread(math.sqrt(max(by_seed - rest, 0.0) / attackers), math.sqrt(max(by_attackers - rest, 0.0) / seeds))


def _mean_squares(values: Floats) -> tuple[float, float, float]:
    """Of the rows, of the columns, and of what neither explains."""
    seeds, attackers = values.shape
    rows, columns, mean = values.mean(1), values.mean(0), values.mean()
    rest = values - rows[:, None] - columns + mean
    return (
        attackers * float(np.square(rows - mean).sum()) / (seeds - 1),
        seeds * float(np.square(columns - mean).sum()) / (attackers - 1),
        float(np.square(rest).sum()) / ((seeds - 1) * (attackers - 1)),
    )
