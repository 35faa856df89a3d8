"""The gap statistic finds clusters where there are some, and its split is the best one."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from strategies.sparse.gap_statistic import Floats, log_dispersions, num_clusters, split_in_two

numbers = st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=2, max_size=8)


def share_of_one_cluster(draw: Callable[[np.random.Generator], Floats]) -> float:
    seeds = range(200)
    ones = (num_clusters(draw(np.random.default_rng(seed)), np.random.default_rng(seed + 10_000)) for seed in seeds)
    return sum(count == 1 for count in ones) / len(seeds)


@pytest.mark.parametrize("size", [20, 50, 200])
def test_a_single_heap_makes_one_cluster(size: int) -> None:
    assert share_of_one_cluster(lambda generator: generator.normal(size=size)) >= 0.9
    assert share_of_one_cluster(lambda generator: generator.triangular(0, 0.5, 1, size)) >= 0.9


@pytest.mark.parametrize("size", [20, 50, 200])
def test_uniform_draws_are_on_the_border_of_one_cluster(size: int) -> None:
    # The reference itself: gap_2 − gap_1 has mean 0 there, and passes the rule's margin of one s_2 one time in five.
    assert 0.7 <= share_of_one_cluster(lambda generator: generator.random(size)) <= 0.95


@pytest.mark.parametrize("seed", range(12))
def test_the_decision_is_that_of_the_papers_formulas_with_k_means(seed: int) -> None:
    draws = 20
    generator = np.random.default_rng(seed)
    values = np.concatenate([generator.random(20), generator.normal(seed / 4, 0.2, 5)])

    def dispersion(sample: Floats, k: int) -> float:
        # scikit-learn's k-means++ with restarts, as the reference program calls it.
        fitted = KMeans(k, n_init=5, random_state=0).fit(sample[:, None])
        return math.log(fitted.inertia_)

    scaled = (values - values.min()) / (values.max() - values.min())
    references = np.random.default_rng(seed + 99).random((draws, len(values)))
    logs = np.array([[dispersion(sample, k) for k in (1, 2)] for sample in references])
    gap_one, gap_two = logs.mean(0) - [dispersion(scaled, k) for k in (1, 2)]
    margin = logs[:, 1].std() * math.sqrt(1 + 1 / draws)
    expected = 2 if gap_one < gap_two - margin else 1
    assert num_clusters(values, np.random.default_rng(seed + 99), draws) == expected


@pytest.mark.parametrize("sizes", [(49, 1), (47, 3), (25, 25), (10, 90)])
def test_well_separated_groups_make_two_clusters(sizes: tuple[int, int]) -> None:
    for seed in range(200):
        generator = np.random.default_rng(seed)
        values = np.concatenate([generator.normal(0, 1, sizes[0]), generator.normal(60, 1, sizes[1])])
        assert num_clusters(values, generator) == 2
        upper = split_in_two(values)
        assert not upper[: sizes[0]].any()
        assert upper[sizes[0] :].all()


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [3.0] * 50])
def test_few_or_equal_numbers_make_one_cluster(values: list[float]) -> None:
    assert num_clusters(np.array(values), np.random.default_rng(0)) == 1


def squares(values: list[float]) -> float:
    return float(np.square(np.array(values) - np.mean(values)).sum()) if values else 0.0


@given(values=numbers)
@settings(max_examples=100, deadline=None)
def test_the_split_is_the_best_of_all_ways_to_part_the_numbers(values: list[float]) -> None:
    indices = range(len(values))
    best = min(
        squares([values[i] for i in left]) + squares([values[i] for i in indices if i not in left])
        for size in range(len(values))
        for left in combinations(indices, size)
    )
    upper = split_in_two(np.array(values))
    found = squares([v for v, up in zip(values, upper, strict=True) if up]) + squares(
        [v for v, up in zip(values, upper, strict=True) if not up]
    )
    scale = squares(values)
    assert found <= best + 1e-9 * scale + 1e-12


@given(seed=st.integers(0, 1000), size=st.integers(3, 9))
@settings(max_examples=50, deadline=None)
def test_dispersions_are_sums_of_squares_around_the_clusters_means(seed: int, size: int) -> None:
    samples = np.random.default_rng(seed).random((4, size))
    one, two = log_dispersions(samples)
    for sample, log_one, log_two in zip(samples, one, two, strict=True):
        ordered = sorted(sample.tolist())
        assert np.exp(log_one) == pytest.approx(squares(ordered), rel=1e-9)
        best = min(squares(ordered[:cut]) + squares(ordered[cut:]) for cut in range(1, size))
        assert np.exp(log_two) == pytest.approx(best, rel=1e-6)


def test_the_scale_of_the_numbers_does_not_matter() -> None:
    values = np.random.default_rng(3).normal(size=50)
    for scaled in (values * 1e-8 + 5, values * 1e6, -values):
        assert num_clusters(scaled, np.random.default_rng(4)) == num_clusters(values, np.random.default_rng(4))
