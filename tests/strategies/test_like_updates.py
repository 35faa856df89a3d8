"""Krum where updates are much alike: what they differ in decides, not the rounding of what they share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_updates import Shape, dense, random_updates
from scipy.spatial.distance import cdist

from protocol.updates import Updates
from strategies.rules.krum import krum_scores, squared_distances
from strategies.rules.per_item import krum_rows

NUM_ITEMS, DIM = 12, 3


def alike(offset: float, density: float, first: float = 0.0) -> Updates:
    """Seven float32 updates around one vector of this size, which differ by 1e-3; ``first`` is added to one of them."""
    updates = random_updates(Shape(3, 7, NUM_ITEMS, DIM, 0, density), scale=1e-3)
    rows = updates.rows + offset + first * (updates.row_owner == 0).double().unsqueeze(1)
    return replace(updates, rows=rows.float(), shared=updates.shared.float(), l2_share=updates.l2_share.float())


@pytest.mark.parametrize("density", [1.0, 0.6])
@pytest.mark.parametrize("first", [0.0, 1e9])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e2, 1e4])
def test_distances_are_those_of_the_differences(offset: float, first: float, density: float) -> None:
    updates = alike(offset, density, first)
    matrix = dense(updates, NUM_ITEMS)
    exact = cdist(matrix, matrix, "sqeuclidean")
    # Of the others: beside 1e9 nobody sees a thousandth.
    found = squared_distances(updates).numpy()[1:, 1:]
    rounding = 1e-15 * offset**2 * NUM_ITEMS * DIM
    np.testing.assert_allclose(found, exact[1:, 1:], rtol=1e-4, atol=rounding)


@pytest.mark.parametrize("offset", [1.0, 1e2, 1e4])
def test_the_scores_are_in_the_order_of_the_exact_ones(offset: float) -> None:
    updates = alike(offset, 1.0)
    matrix = dense(updates, NUM_ITEMS)
    exact = krum_scores(torch.from_numpy(cdist(matrix, matrix, "sqeuclidean")), 1)
    found = krum_scores(squared_distances(updates), 1)
    assert found.argsort().tolist() == exact.argsort().tolist()
    np.testing.assert_allclose(found.numpy(), exact.numpy(), rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e2, 1e4])
def test_item_by_item_the_same_row_is_chosen_as_in_64_bits(offset: float) -> None:
    rows = alike(offset, 1.0).rows.view(7, NUM_ITEMS, DIM).transpose(0, 1).contiguous()
    chosen = krum_rows(rows, 1)
    for item in range(NUM_ITEMS):
        values = rows[item].double().numpy()
        scores = krum_scores(torch.from_numpy(cdist(values, values, "sqeuclidean")), 1)
        assert torch.equal(chosen[item], rows[item, int(scores.argmin())])
