"""How many clusters a handful of numbers makes: the gap statistic in one dimension, for one cluster or two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SMALLEST_DISPERSION = 1e-15
"""Where all values sit on their cluster's mean the dispersion is rounding alone; its logarithm stays finite."""


def num_clusters(values: Floats, generator: np.random.Generator, draws: int = 50) -> int:
    """1 or 2: whether the numbers (n,) make one cluster or two.

    The values, scaled to [0, 1], against ``draws`` samples of the same size, uniform on [0, 1]: two clusters
    iff gap_1 < gap_2 − s_2. Numbers without spread, or fewer than three, make one. Source: Tibshirani,
    Walther and Hastie 2001; Algorithm 3 of the paper.
    """
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    if len(values) < 3 or not high > low:
        return 1
    one, two = log_dispersions((values - low) / (high - low))
    reference_one, reference_two = log_dispersions(generator.random((draws, len(values))))
    spread = reference_two.std() * np.sqrt(1 + 1 / draws)
    gap_one = reference_one.mean() - one
    gap_two = reference_two.mean() - two
    return 2 if gap_one < gap_two - spread else 1


def log_dispersions(values: Floats) -> tuple[Floats, Floats]:
    """ln V_1 and ln V_2, each (...), of samples (..., n): the sums of squares around one mean and around two."""
    ordered = np.sort(values, axis=-1)
    one = np.square(ordered - ordered.mean(-1, keepdims=True)).sum(-1)
    two = split_dispersions(ordered).min(-1)
    return np.log(np.maximum(one, SMALLEST_DISPERSION)), np.log(np.maximum(two, SMALLEST_DISPERSION))


def split_dispersions(ordered: Floats) -> Floats:
    """The sums of squares (..., n−1) around two means, for each place to cut the ascending values (..., n).

    In one dimension the best two clusters are an interval each, so that the smallest of these is 2-means' optimum.
    """
    size = ordered.shape[-1]
    centred = ordered - ordered.mean(-1, keepdims=True)
    left = centred.cumsum(-1)[..., :-1]
    left_size = np.arange(1, size)
    # The values sum to 0, so the right part's sum is −left: both means' share of Σx² is left²(1/k + 1/(n−k)).
    explained = left**2 * (1 / left_size + 1 / (size - left_size))
    remaining: Floats = np.square(centred).sum(-1, keepdims=True) - explained
    return remaining


def split_in_two(values: Floats) -> Bools:
    """(n,) whether each of the numbers (n,) belongs to the upper of the best two clusters.

    Equal numbers are never separated: a cut stands between two different ones. Without spread no number is
    in the upper cluster.
    """
    ordered = np.sort(values)
    apart = ordered[1:] > ordered[:-1]
    if not apart.any():
        return np.zeros(len(values), dtype=bool)
    low, high = ordered[0], ordered[-1]
    costs = np.where(apart, split_dispersions((ordered - low) / (high - low)), np.inf)
    above: Bools = values > ordered[costs.argmin()]
    return above
