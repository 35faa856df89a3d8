"""The vectorised cohort gradient against autograd on one user at a time, straight from Eq. 1 and Eq. 4."""

import pytest
import torch

from models.recommenders.contrastive import ContrastiveDraws
from models.recommenders.mf import Pairs, cohort_gradient

NUM_ITEMS, DIM = 40, 6


def one_user_loss(table, vector, positives, negatives, keep, contrast, alpha):
    """Eq. 1 (without L2) plus α times Eq. 4 for one user, written out with explicit loops over its examples."""
    loss = torch.zeros((), dtype=table.dtype)
    for i, j, factors in zip(positives.tolist(), negatives.tolist(), keep, strict=True):
        user, positive, negative = vector * factors[0], table[i] * factors[1], table[j] * factors[2]
        loss = loss - torch.log(torch.sigmoid(user @ positive - user @ negative) + 1e-8) / len(positives)
    if contrast is not None:
        items, kept, dropout = contrast
        for row, mask in zip(items.tolist(), kept, strict=True):
            vectors = [table[item] * m / (1 - dropout) for item, m in zip(row, mask, strict=True)]
            scores = torch.stack([torch.exp(vectors[0] @ other) for other in vectors[1:]])
            loss = loss - alpha * torch.log(scores[0] / scores.sum()) / len(items)
    return loss


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_cohort_gradient_is_each_users_own_gradient(contrastive: bool, dropout: float) -> None:
    torch.manual_seed(3)
    counts = torch.tensor([1, 7, 3, 1200])
    splits = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    total, users = int(splits[-1]), len(counts)
    table = torch.randn(NUM_ITEMS, DIM, dtype=torch.float64) * 0.3
    vectors = torch.randn(users, DIM, dtype=torch.float64)
    positives, negatives = torch.randint(0, NUM_ITEMS, (2, total))
    keep = torch.rand(total, 3, DIM) >= dropout
    alpha, draws = 0.7, None
    if contrastive:
        # The first user has a single item and skips the task.
        task_counts = torch.tensor([0, 7, 3, 300])
        task_splits = torch.cat([torch.zeros(1, dtype=torch.int64), task_counts.cumsum(0)])
        items = torch.randint(0, NUM_ITEMS, (int(task_splits[-1]), 5))
        kept = torch.rand(len(items), 5, DIM) >= dropout
        draws = ContrastiveDraws(task_splits, items, kept, dropout)

    found = cohort_gradient(table, vectors, Pairs(splits, positives, negatives, keep, dropout), draws, alpha)

    for user in range(users):
        part = slice(int(splits[user]), int(splits[user + 1]))
        contrast = None
        if draws is not None and draws.splits[user] < draws.splits[user + 1]:
            task = slice(int(draws.splits[user]), int(draws.splits[user + 1]))
            contrast = (draws.items[task], draws.keep[task], dropout)
        e, p = table.clone().requires_grad_(), vectors[user].clone().requires_grad_()
        factors = keep[part].double() / (1 - dropout)
        loss = one_user_loss(e, p, positives[part], negatives[part], factors, contrast, alpha)
        loss.backward()
        rows = slice(int(found.row_splits[user]), int(found.row_splits[user + 1]))
        dense = torch.zeros_like(table)
        dense[found.items[rows]] = found.rows[rows]
        torch.testing.assert_close(dense, e.grad, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.vectors[user], p.grad, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.losses[user], loss.detach(), rtol=0, atol=1e-10)
        assert bool((found.items[rows].diff() > 0).all())


def test_only_touched_rows_are_sent() -> None:
    splits = torch.tensor([0, 2, 3])
    pairs = Pairs(splits, torch.tensor([4, 2, 9]), torch.tensor([7, 7, 0]))
    found = cohort_gradient(torch.randn(10, 4), torch.randn(2, 4), pairs)
    assert found.items.tolist() == [2, 4, 7, 0, 9]
    assert found.row_splits.tolist() == [0, 3, 5]
