"""The rules' compiled loops: against NumPy's sort, and against what torch computes where there are no such loops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_updates import Floats, Shape, assert_close, flat, model_of, random_updates, view

from models.kernels.order import WIDTH, means_around_medians, middle_means
from settings.options import Scalar
from strategies.chain import compose


def nearest_to_the_median(values: Floats, nearest: int) -> tuple[Floats, Floats]:
    """Of each column of (n, d) the mean of so many values nearest to its median, and whether no others lie as near.

    Of an even number of values two at least lie equally far from the median, and more where a zero is one of them.
    """
    away = np.abs(values - np.median(values, axis=0))
    order = np.argsort(away, axis=0)
    away = np.take_along_axis(away, order, axis=0)
    last, next_one = away[nearest - 1], away[nearest] if nearest < len(values) else np.inf
    return np.take_along_axis(values, order[:nearest], axis=0).mean(0), last < next_one - 1e-12


@given(data=st.data(), sent=st.integers(1, 40), dim=st.sampled_from([1, 3, WIDTH - 1, WIDTH, WIDTH + 1, 2 * WIDTH + 7]))
@settings(max_examples=40, deadline=None)
def test_order_statistics_are_those_of_the_sorted_column(data: st.DataObject, sent: int, dim: int) -> None:
    total = sent + data.draw(st.integers(0, 40), "values that nobody sent")
    low = data.draw(st.integers(0, total - 1), "low")
    high = data.draw(st.integers(low + 1, total), "high")
    nearest = data.draw(st.integers(1, total), "nearest")
    rows = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).normal(size=(2, sent, dim))
    padded = np.concatenate([rows, np.zeros((2, total - sent, dim))], axis=1)
    assert_close(middle_means(rows, total, low, high), np.sort(padded, axis=1)[:, low:high].mean(1))
    found = means_around_medians(rows, total, nearest)
    for item in range(2):
        expected, only = nearest_to_the_median(padded[item], nearest)
        assert_close(found[item][only], expected[only])


@contextmanager
def without_kernels() -> Iterator[None]:
    """As on a device for which nothing is compiled."""
    with ExitStack() as stack:
        for module in ("protocol.updates", "strategies.sparse.order_statistics", "strategies.rules.bulyan"):
            stack.enter_context(patch(f"{module}.has_kernels", return_value=False))
        yield


@pytest.mark.parametrize(
    "rule", ["trimmed-mean", "meamed", "bulyan", "per-item-median", "nnm+median", "bucketing+mean", "sign-guard"]
)
def test_torch_gives_what_compiled_loops_give(rule: str) -> None:
    options: dict[str, Scalar] = {"sign-guard-coordinates": 0.5}
    for seed in range(3):
        shape = Shape(seed, 13, 30, 5, 4, 0.4)
        model = model_of(shape)
        updates = random_updates(shape)
        compiled = compose(rule, options, shape.n, 0.15).aggregate(updates, view(model))
        with without_kernels():
            by_torch = compose(rule, options, shape.n, 0.15).aggregate(updates, view(model))
        assert_close(flat(compiled.gradient), flat(by_torch.gradient))
        for one, other in zip(compiled.verdicts, by_torch.verdicts, strict=True):
            assert torch.equal(one.kept, other.kept)
