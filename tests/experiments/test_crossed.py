"""The interval over two kinds of seeds, against simulation and against what it must come to at its ends."""

import numpy as np
import pytest

from experiments.report.crossed import crossed_interval, spread
from experiments.report.intervals import interval


def _drawn(generator: np.random.Generator, size: tuple[int, int], seeds: float, attackers: float, rest: float):
    """Values with these deviations by row, by column, and of their own, around 0."""
    by_seed, by_attackers = generator.normal(0, seeds, (size[0], 1)), generator.normal(0, attackers, (1, size[1]))
    return by_seed + by_attackers + generator.normal(0, rest, size)


@pytest.mark.parametrize("parts", [(1.0, 1.0, 1.0), (0.0, 2.0, 0.5), (2.0, 0.0, 0.5), (0.0, 0.0, 1.0), (1.0, 3.0, 0.1)])
def test_it_covers_the_truth_as_often_as_it_says(parts: tuple[float, float, float]) -> None:
    """In 95 % of 2,000 experiments or more often, less four standard errors (0.5 %) and what Satterthwaite misses."""
    generator = np.random.default_rng(0)
    found = [crossed_interval(_drawn(generator, (4, 5), *parts)) for _ in range(2000)]
    assert np.mean([abs(one.mean) <= one.half for one in found]) > 0.92


def test_values_taken_for_independent_would_cover_it_far_too_rarely() -> None:
    """Why this interval is there: Student's of all twenty values forgets that four share their malicious users."""
    generator = np.random.default_rng(0)
    found = [interval(_drawn(generator, (4, 5), 0.2, 2.0, 0.2).ravel().tolist()) for _ in range(500)]
    assert np.mean([abs(one.mean) <= one.half for one in found]) < 0.8


@pytest.mark.parametrize("size", [(1, 6), (6, 1)])
def test_one_row_or_column_is_students_interval(size: tuple[int, int]) -> None:
    values = np.random.default_rng(1).normal(size=size)
    assert crossed_interval(values) == interval(values.ravel().tolist())
    only = spread(values)
    assert (only.attackers if size[0] == 1 else only.seeds) == pytest.approx(values.std(ddof=1))
    assert (only.seeds if size[0] == 1 else only.attackers) is None


def test_the_components_are_those_that_the_values_were_made_with() -> None:
    found = spread(_drawn(np.random.default_rng(2), (400, 400), 0.5, 1.5, 2.0))
    assert found.seeds == pytest.approx(0.5, rel=0.15)
    assert found.attackers == pytest.approx(1.5, rel=0.15)
