"""NCF's gradients and scores: what one user, one pair and one item at a time get from the paper's equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.recommenders import dropout
from models.recommenders.contrastive import ContrastiveDraws
from models.recommenders.ncf import PAIRS, Ncf, Pairs, cohort_gradient
from models.recommenders.recommender import CohortGradient

ITEMS, DIM, PROBABILITY = 40, 8, 0.25
COUNTS = [3, 1, 0, PAIRS, PAIRS + 1, 2 * PAIRS + 5, 17]
"""Below, at and above a block of pairs, and a user without pairs."""


def model(kind: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A table and a network in which no parameter is the 0 where biases start."""
    generator = np.random.default_rng(3)
    shared = Ncf().initial(ITEMS, DIM, 1)[1].double()
    table = torch.from_numpy(generator.normal(0, 0.7, (ITEMS, DIM)))
    return table.to(kind), (shared + torch.from_numpy(generator.normal(0, 0.2, len(shared)))).to(kind)


def cohort(counts: list[int] = COUNTS) -> tuple[Tensor, Pairs]:
    """Users with vectors and pairs of their own; an item may be a positive here and a negative there."""
    drawn = [np.random.default_rng([7, count]) for count in counts]
    vectors = torch.from_numpy(np.array([one.normal(0, 1, DIM) for one in drawn]).reshape(-1, DIM))
    items = np.concatenate([one.integers(0, ITEMS, (2, count)) for one, count in zip(drawn, counts, strict=True)], 1)
    positives, negatives = torch.from_numpy(items)
    splits = torch.tensor([0, *np.cumsum(counts)])
    return vectors, Pairs(splits, positives, negatives, dropout.user_keys(5, 2, np.array(counts)), PROBABILITY)


def score(users: Tensor, items: Tensor, shared: Tensor) -> Tensor:
    """He et al. 2017, Eq. 10, with the parameters one after another as the flat vector has them."""
    states, start = torch.cat([users, items], -1), 0
    for width, out in ((2 * DIM, DIM), (DIM, DIM // 2), (DIM // 2, DIM // 4)):
        matrix = shared[start : start + width * out].view(width, out)
        states = torch.clamp(states @ matrix + shared[start + width * out :][:out], min=0)
        start += width * out + out
    return states @ shared[start:]


def loss_of(user: int, table: Tensor, shared: Tensor, vector: Tensor, pairs: Pairs) -> Tensor:
    """The mean BPR loss of one user's pairs, dropout's factors given by the user's key."""
    mine = slice(*pairs.splits[user : user + 2].tolist())
    positives, negatives = table[pairs.positives[mine]], table[pairs.negatives[mine]]
    if not len(positives):
        return 0 * (table.sum() + shared.sum() + vector.sum())
    factors = torch.ones(3, len(positives), DIM, dtype=table.dtype)
    if pairs.dropout and pairs.keys is not None:
        keys = dropout.spread(pairs.keys[user], -(-len(positives) // PAIRS))
        drawn = [dropout.factors(key, 3 * PAIRS, DIM, pairs.dropout, table.dtype).view(3, PAIRS, DIM) for key in keys]
        factors = torch.cat(drawn, 1)[:, : len(positives)]
    owns, positives, negatives = vector * factors[0], positives * factors[1], negatives * factors[2]
    margins = score(owns, positives, shared) - score(owns, negatives, shared)
    return -torch.log(torch.sigmoid(margins) + 1e-8).mean()


def parts_of(found: CohortGradient, user: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mine = slice(found.row_splits[user], found.row_splits[user + 1])
    dense = torch.zeros(ITEMS, DIM, dtype=found.rows.dtype)
    dense[found.items[mine]] = found.rows[mine]
    return found.losses[user], dense, found.shared[user], found.vectors[user]


@pytest.mark.parametrize("with_dropout", [False, True])
def test_gradients_are_autograds_of_one_user_at_a_time(with_dropout: bool) -> None:
    vectors, pairs = cohort()
    if not with_dropout:
        pairs = Pairs(pairs.splits, pairs.positives, pairs.negatives)
    found = cohort_gradient(*model(), vectors, pairs)
    for user in range(len(COUNTS)):
        parameters = tuple(part.requires_grad_() for part in (*model(), vectors[user].clone()))
        loss = loss_of(user, *parameters, pairs)
        expected = (loss.detach(), *torch.autograd.grad(loss, parameters))
        for one, other in zip(parts_of(found, user), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_unions_task_adds_its_own_gradient_and_no_other() -> None:
    vectors, pairs = cohort()
    table, shared = model()
    items = torch.from_numpy(np.random.default_rng(2).integers(0, ITEMS, (9, 5)))
    splits = torch.tensor([0, 4, 4, 4, 9, 9, 9, 9])
    without = cohort_gradient(table, shared, vectors, pairs)
    found = cohort_gradient(table, shared, vectors, pairs, ContrastiveDraws(splits, items), 0.5)
    for user in range(len(COUNTS)):
        rows = model()[0].requires_grad_()
        own = items[splits[user] : splits[user + 1]]
        loss = 0 * rows.sum()
        for example in own:
            loss = loss - (rows[example[1:]] @ rows[example[0]]).log_softmax(0)[0] / len(own)
        (by_row,) = torch.autograd.grad(loss, rows)
        extra = (0.5 * loss.detach(), 0.5 * by_row, torch.zeros_like(shared), torch.zeros(DIM).double())
        for one, other, more in zip(parts_of(found, user), parts_of(without, user), extra, strict=True):
            torch.testing.assert_close(one - other, more, rtol=1e-9, atol=1e-12)


def test_no_user_depends_on_the_others_by_a_single_bit() -> None:
    table, shared = model(torch.float32)
    many = COUNTS + [5 * PAIRS + index for index in range(9)]
    vectors, pairs = cohort(many)
    together = cohort_gradient(table, shared, vectors.float(), pairs)
    for user, count in enumerate(many):
        own, mine = cohort([count])
        alone = cohort_gradient(table, shared, own.float(), mine)
        for one, other in zip(parts_of(together, user), parts_of(alone, 0), strict=True):
            assert torch.equal(one, other)


def test_scores_are_the_networks_and_nobodys_depend_on_the_others() -> None:
    table, shared = model()
    vectors, _ = cohort()
    scores = Ncf().scores(table, shared, vectors)
    expected = torch.stack([score(vector.expand(ITEMS, -1), table, shared) for vector in vectors])
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(Ncf().scores(table, shared, vectors[3:4]), scores[3:4])


def test_a_network_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="NCF with width 8 has 184"):
        cohort_gradient(model()[0], torch.zeros(7), *cohort())
