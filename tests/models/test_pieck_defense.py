"""PIECK's two regularisers: autograd's gradients of what their definition says, and no user hears of another."""

from __future__ import annotations

import torch
from torch import Tensor

from models.recommenders.loss import LossOptions
from models.recommenders.pieck_defense import popular_rows, regularised
from models.recommenders.recommender import CohortGradient

ITEMS, DIM = 12, 5
LOSS = LossOptions(pieck_items=3, pieck_item_weight=0.7, pieck_user_weight=1.3)


def drawn(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FIRST, TABLE, VECTORS = drawn(ITEMS, DIM, seed=1), drawn(ITEMS, DIM, seed=2), drawn(3, DIM, seed=3)
TOUCHED = [[0, 2, 5, 7], list(range(ITEMS)), []]


def nothing(touched: list[list[int]]) -> CohortGradient:
    """A gradient of 0 for users who touch these items."""
    splits = torch.tensor([0, *torch.tensor([len(items) for items in touched]).cumsum(0).tolist()])
    items = torch.tensor([item for items in touched for item in items], dtype=torch.int64)
    zeros = [torch.zeros(size, dtype=torch.float64) for size in ((len(touched),), (len(items), DIM), (len(touched), 0))]
    return CohortGradient(splits.diff(), zeros[0], splits, items, zeros[1], zeros[2], 0 * VECTORS[: len(touched)])


def test_gradients_are_those_of_the_definition() -> None:
    moved = [float((TABLE[item] - FIRST[item]).norm()) for item in range(ITEMS)]
    popular = sorted(range(ITEMS), key=lambda item: -moved[item])[:3]
    assert popular_rows(TABLE, FIRST, 3).tolist() == popular
    found = regularised(nothing(TOUCHED), TABLE, FIRST, VECTORS, LOSS)
    for user, touched in enumerate(TOUCHED):
        table, vector = TABLE.clone().requires_grad_(), VECTORS[user].clone().requires_grad_()
        loss = 0 * table.sum()
        for weight, item in zip((9 / 14, 4 / 14, 1 / 14), popular, strict=True):
            others = [other for other in touched if other not in popular]
            for other in others:
                loss = loss - 0.7 * weight * torch.cosine_similarity(TABLE[item], table[other], dim=0) / len(others)
            shares = vector.softmax(0)
            divergence = (shares * (shares.log() - TABLE[item].softmax(0).log())).sum()
            loss = loss - 1.3 * weight * divergence / DIM
        by_table, by_vector = torch.autograd.grad(loss, (table, vector))
        mine = slice(found.row_splits[user], found.row_splits[user + 1])
        torch.testing.assert_close(found.losses[user], loss.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.rows[mine], by_table[touched], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.vectors[user], by_vector, rtol=1e-10, atol=1e-12)


def test_no_user_depends_on_the_others_and_before_the_first_step_nothing_is_popular() -> None:
    found = regularised(nothing(TOUCHED), TABLE, FIRST, VECTORS, LOSS)
    alone = regularised(nothing(TOUCHED[:1]), TABLE, FIRST, VECTORS[:1], LOSS)
    assert torch.equal(alone.rows, found.rows[:4])
    assert torch.equal(alone.vectors, found.vectors[:1])
    assert torch.equal(alone.losses, found.losses[:1])
    before = nothing(TOUCHED)
    assert regularised(before, FIRST, FIRST, VECTORS, LOSS) is before
