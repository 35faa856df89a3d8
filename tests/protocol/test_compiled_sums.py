"""Sums over sparse updates by compiled loops: against dense 64-bit sums, and what they refuse before they read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import adam
from models.adam import Moments
from protocol.updates import Gradient, Updates, make_updates, splits_of
from strategies.rules.krum import squared_distances

NUM_ITEMS = 9


@st.composite
def some_updates(draw: st.DrawFn, kind: torch.dtype = torch.float32) -> Updates:
    """Users without any row are among them, and rows that are not contiguous in memory."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dim = draw(st.integers(1, 6)), draw(st.sampled_from([1, 3, 8]))
    touched = generator.random((n, NUM_ITEMS)) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    count = int(touched.sum())
    wide = torch.from_numpy(generator.normal(size=(count, 2 * dim))).to(kind)
    rows = wide[:, ::2] if draw(st.booleans()) else wide[:, :dim].clone()
    return make_updates(
        torch.arange(n),
        torch.from_numpy(generator.integers(1, 9, n)),
        splits_of(torch.from_numpy(touched.sum(1))),
        torch.from_numpy(touched.nonzero()[1]),
        rows,
    )


def dense(updates: Updates) -> Tensor:
    """(n, NUM_ITEMS, d) float64."""
    table = torch.zeros(len(updates), NUM_ITEMS, updates.dim, dtype=torch.float64)
    table[updates.row_owner, updates.items] = updates.rows.double()
    return table


@pytest.mark.parametrize(("kind", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_sums_are_those_of_the_dense_updates(kind: torch.dtype, error: float, data: st.DataObject) -> None:
    updates = data.draw(some_updates(kind))
    whole, table = dense(updates), torch.linspace(-1, 1, NUM_ITEMS * updates.dim).view(NUM_ITEMS, -1).to(kind)
    common = Gradient(table, updates.shared.new_empty(0))
    weights = updates.num_examples.double() / updates.num_examples.sum()
    scaled = updates.scale(torch.arange(len(updates)).to(kind))
    distances = (whole.flatten(1).unsqueeze(1) - whole.flatten(1)).square().sum(2)
    for found, expected in (
        (updates.norms(), whole.square().sum((1, 2)).sqrt()),
        (updates.inner(common), (whole * table.double()).sum((1, 2))),
        (updates.weighted_mean(NUM_ITEMS).items, torch.einsum("n,nid->id", weights, whole)),
        (scaled.weighted_mean(NUM_ITEMS).items, torch.einsum("n,nid->id", weights * torch.arange(len(updates)), whole)),
        (dense(scaled), whole * torch.arange(len(updates)).view(-1, 1, 1)),
        (squared_distances(updates), distances),
    ):
        torch.testing.assert_close(found.double(), expected, rtol=error, atol=error * 10)


@given(some_updates(), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_mean_of_scaled_updates_is_that_of_their_rows_to_the_bit(updates: Updates, seed: int) -> None:
    factors = torch.from_numpy(np.random.default_rng(seed).random(len(updates))).float()
    scaled = updates.scale(factors)
    mean = scaled.weighted_mean(NUM_ITEMS).items
    rows = updates.rows * factors[updates.row_owner].unsqueeze(1)
    assert torch.equal(mean, replace(updates, rows=rows).weighted_mean(NUM_ITEMS).items)
    assert torch.equal(scaled.rows, rows)


def test_narrow_rows_are_summed_by_torch() -> None:
    updates = make_updates(
        torch.arange(2), torch.ones(2), torch.tensor([0, 1, 2]), torch.tensor([3, 3]), torch.ones(2, 4).bfloat16()
    )
    assert not updates.has_kernels
    mean = updates.weighted_mean(NUM_ITEMS)
    assert mean.items[3].tolist() == [1, 1, 1, 1]
    assert updates.norms().tolist() == [2, 2]


@pytest.mark.parametrize("item", [-1, NUM_ITEMS, 1 << 40])
def test_an_item_outside_the_table_is_refused(item: int) -> None:
    updates = make_updates(
        torch.arange(2), torch.ones(2), torch.tensor([0, 1, 2]), torch.tensor([3, item]), torch.ones(2, 4)
    )
    with pytest.raises(IndexError, match="outside the table"):
        updates.weighted_mean(NUM_ITEMS)
    with pytest.raises(IndexError, match="outside the table"):
        updates.inner(Gradient(torch.ones(NUM_ITEMS, 4), torch.empty(0)))
    if item < 0:
        with pytest.raises(IndexError, match="outside the table"):
            squared_distances(updates)


@pytest.mark.parametrize("splits", [[0, 1], [0, 3, 2], [0, 1, 3], [1, 1, 2]])
def test_offsets_that_do_not_divide_the_rows_are_refused(splits: list[int]) -> None:
    updates = make_updates(
        torch.arange(2), torch.ones(2), torch.tensor([0, 1, 2]), torch.tensor([3, 4]), torch.ones(2, 4)
    )
    with pytest.raises(ValueError, match="do not divide"):
        replace(updates, row_splits=torch.tensor(splits)).weighted_mean(NUM_ITEMS)


def test_weights_of_other_users_are_refused() -> None:
    updates = make_updates(torch.arange(1), torch.ones(1), torch.tensor([0, 1]), torch.tensor([3]), torch.ones(1, 4))
    with pytest.raises(ValueError, match="one for each of 1 users"):
        updates.scale(torch.ones(3))


def test_adam_refuses_tensors_of_other_shapes() -> None:
    parameter = torch.ones(4, 2)
    with pytest.raises(ValueError, match="cannot step"):
        adam.step(parameter, torch.ones(3, 2), Moments.zeros_like(parameter), 1, 0.1)
