"""The gradient that a node computes: by compiled loops on a CPU, of the same draws as torch has elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.interactions import leave_one_out
from data.shard import shard_of
from data.synthetic import synthetic
from models.recommenders.cohort import cohort_of
from models.recommenders.loss import LossOptions
from models.recommenders.mf import cohort_gradient
from models.recommenders.mf_recommender import MatrixFactorization, training_pairs
from models.recommenders.recommender import Training

SPLIT = leave_one_out(synthetic())
SHARD = shard_of(SPLIT, np.arange(SPLIT.num_users))
USERS = np.array([3, 50, 400])
DIM = 8
NOTHING_SHARED = torch.empty(0)


def table(kind: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(SHARD.num_items, DIM, dtype=kind, generator=torch.Generator().manual_seed(1)) * 0.3


def training(loss: LossOptions, kind: torch.dtype = torch.float64) -> Training:
    vectors = torch.randn(len(USERS), DIM, dtype=kind, generator=torch.Generator().manual_seed(2))
    return Training.honest(cohort_of(SHARD, USERS), vectors, loss, 5, 7)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("altered", [False, True])
def test_compiled_loops_and_torch_compute_one_gradient(dropout: float, weight: float, altered: bool) -> None:
    """Of honest pairs, and of those that an attack puts in their place; torch's is judged in test_mf.py."""
    asked = training(LossOptions(dropout=dropout, contrastive_weight=weight))
    if altered:
        asked = replace(asked, positives=asked.negatives, negatives=asked.positives.flip(0))
    found = MatrixFactorization().gradient(table(), NOTHING_SHARED, asked)
    pairs = training_pairs(asked, DIM)
    expected = cohort_gradient(table(), asked.vectors, pairs, asked.contrastive(table()), weight)
    for name in ("num_pairs", "row_splits", "items"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("losses", "rows", "vectors"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("item", [-1, SHARD.num_items])
@pytest.mark.parametrize("pairs", ["positives", "negatives"])
def test_an_item_outside_the_table_is_refused(pairs: str, item: int) -> None:
    asked = training(LossOptions())
    wrong = getattr(asked, pairs).clone()
    wrong[17] = item
    with pytest.raises(IndexError, match="outside the table"):
        MatrixFactorization().gradient(table(), NOTHING_SHARED, replace(asked, **{pairs: wrong}))


def test_a_table_that_lacks_items_of_the_node_is_refused() -> None:
    """Even where the pairs have none of these: the contrastive task would draw by a wrong number of items."""
    asked = training(LossOptions(contrastive_weight=1.0))
    few = replace(asked, positives=asked.positives * 0, negatives=asked.negatives * 0)
    with pytest.raises(IndexError, match="outside the table"):
        MatrixFactorization().gradient(table()[: int(asked.cohort.items.max())], NOTHING_SHARED, few)
