"""Means over seeds with their 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """``mean`` of ``count`` values; the interval is ``mean`` ± ``half`` (``None`` for a single value)."""

    mean: float
    half: float | None
    count: int

    def text(self, digits: int = 4) -> str:
        """As in a table."""
        middle = f"{self.mean:.{digits}f}"
        return middle if self.half is None else f"{middle} ± {self.half:.{digits}f}"

    def percent(self) -> str:
        """As a change in percent, signed."""
        middle = f"{100 * self.mean:+.1f}"
        return f"{middle} %" if self.half is None else f"{middle} ± {100 * self.half:.1f} %"


def interval(values: Sequence[float]) -> Interval | None:
    """Student's t-interval of the values' mean; ``None`` for no values."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean, None, 1)
    deviation = float(np.std(values, ddof=1))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Interval(mean, quantile * deviation / math.sqrt(len(values)), len(values))
