"""The cohort's gradients: what one user at a time gets from plain autograd on an encoder written from the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.recommenders import dropout, sasrec, sasrec_batches, sasrec_cohort
from models.recommenders.contrastive import ContrastiveDraws
from models.recommenders.recommender import CohortGradient
from models.recommenders.sasrec import Shape
from models.recommenders.sasrec_cohort import Histories, cohort_gradient

SHAPE = Shape(dim=8, max_length=12, blocks=2)
NUM_ITEMS = 30
PROBABILITY = 0.25


def model(shape: Shape = SHAPE) -> tuple[Tensor, Tensor]:
    """A table and a shared vector in which no parameter sits at the 0 or 1 where it starts."""
    generator = np.random.default_rng(3)
    table = torch.from_numpy(generator.normal(0, 0.5, (NUM_ITEMS, shape.dim)))
    shared = sasrec.initial_shared(shape, generator).double()
    return table, shared + torch.from_numpy(generator.normal(0, 0.1, len(shared)))


def histories_of(lengths: list[int], seed: int = 0) -> Histories:
    """Random histories with repeated items, as check-ins have them."""
    generator = np.random.default_rng(seed)
    items, negatives = (torch.from_numpy(generator.integers(0, NUM_ITEMS, sum(lengths))) for _ in range(2))
    splits = torch.tensor([0, *np.cumsum(lengths)])
    return Histories(splits, items, items, negatives)


def keys_of(count: int) -> Tensor:
    return dropout.user_keys(7, 11, np.arange(count))


LENGTHS = [5, 1, 13, 2, 40, 9, 3, 1, 14, 6]
"""Around the maximum length + 1 = 13, above it, and users without a pair."""


def norm(states: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    centred = states - states.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-8).sqrt() * gain + shift


def loss_of_one_user(
    table: Tensor, shared: Tensor, shape: Shape, items: list[int], pairs: list[tuple[int, int]], key: Tensor | None
) -> Tensor:
    """One user's loss by Kang and McAuley's equations, position by position, dropout's factors given by its key."""
    steps, d = len(items), shape.dim
    weights = sasrec.unflatten(shared, shape)
    places = torch.arange(shape.max_length - steps, shape.max_length)

    def drop(states: Tensor, site: int) -> Tensor:
        if key is None:
            return states
        site_key = dropout.spread(key, 1 + 3 * shape.blocks)[site]
        rows, columns = states.shape
        return states * dropout.factors(site_key, rows, columns, PROBABILITY, states.dtype)

    states = drop(table[torch.tensor(items)] * math.sqrt(d) + weights.positions[places], 0)
    for index, block in enumerate(weights.blocks):
        queries = norm(states, block.attention_gain, block.attention_shift)
        keys_values = states @ block.key_value + block.key_value_bias
        logits = (queries @ block.query + block.query_bias) @ keys_values[:, :d].T / math.sqrt(d)
        attention = torch.zeros(steps, steps, dtype=states.dtype)
        for step in range(steps):
            attention = attention.index_put(
                (torch.tensor([step]), torch.arange(step + 1)), logits[step, : step + 1].softmax(-1)
            )
        states = queries + drop(attention, 1 + 2 * shape.blocks + index) @ keys_values[:, d:]
        normal = norm(states, block.forward_gain, block.forward_shift)
        inner = drop((normal @ block.inner + block.inner_bias).clamp(min=0), 1 + 2 * index)
        states = normal + drop(inner @ block.outer + block.outer_bias, 2 + 2 * index)
    hidden = norm(states, weights.gain[0], weights.shift[0])
    terms = [
        -torch.log(torch.sigmoid(hidden[step] @ table[positive] - hidden[step] @ table[negative]) + 1e-8)
        for step, (positive, negative) in enumerate(pairs)
    ]
    return torch.stack(terms).mean()


def one_by_one(histories: Histories, keys: Tensor | None, shape: Shape = SHAPE) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(loss, dense item gradient, shared gradient) of each user."""
    results = []
    for user in range(len(histories.splits) - 1):
        table, shared = (parameter.requires_grad_() for parameter in model(shape))
        start, end = histories.splits[user], histories.splits[user + 1]
        items = histories.items[start:end].tolist()[:-1][-shape.max_length :]
        pairs = list(zip(histories.positives[start:end].tolist(), histories.negatives[start:end].tolist(), strict=True))
        pairs = pairs[1:][-shape.max_length :]
        if not pairs:
            results.append((table.new_zeros(()), torch.zeros_like(table), torch.zeros_like(shared)))
            continue
        loss = loss_of_one_user(table, shared, shape, items, pairs, None if keys is None else keys[user])
        by_table, by_shared = torch.autograd.grad(loss, (table, shared))
        results.append((loss.detach(), by_table, by_shared))
    return results


def dense_rows(gradient: CohortGradient, user: int) -> Tensor:
    mine = slice(gradient.row_splits[user], gradient.row_splits[user + 1])
    table = torch.zeros(NUM_ITEMS, gradient.rows.shape[1], dtype=gradient.rows.dtype)
    table[gradient.items[mine]] = gradient.rows[mine]
    return table


@pytest.mark.parametrize("with_dropout", [False, True])
@pytest.mark.parametrize("max_batch_tokens", [1, 40, 10_000])
def test_equals_one_user_at_a_time(with_dropout: bool, max_batch_tokens: int) -> None:
    histories = histories_of(LENGTHS)
    keys = keys_of(len(LENGTHS)) if with_dropout else None
    gradient = cohort_gradient(
        *model(),
        SHAPE,
        histories,
        probability=PROBABILITY if with_dropout else 0.0,
        keys=keys,
        max_batch_tokens=max_batch_tokens,
    )
    for user, (loss, items, shared) in enumerate(one_by_one(histories, keys)):
        torch.testing.assert_close(gradient.losses[user], loss, rtol=0, atol=1e-8)
        torch.testing.assert_close(dense_rows(gradient, user), items, rtol=0, atol=1e-8)
        torch.testing.assert_close(gradient.shared[user], shared, rtol=0, atol=1e-8)


def test_other_pairs_than_the_next_item_are_judged_where_they_stand() -> None:
    """Swapped pairs, as a label flip trains on: the inputs stay the user's own items."""
    honest = histories_of(LENGTHS)
    swapped = Histories(honest.splits, honest.items, honest.negatives, honest.positives)
    gradient = cohort_gradient(*model(), SHAPE, swapped)
    for user, (loss, items, shared) in enumerate(one_by_one(swapped, None)):
        torch.testing.assert_close(gradient.losses[user], loss, rtol=0, atol=1e-8)
        torch.testing.assert_close(dense_rows(gradient, user), items, rtol=0, atol=1e-8)
        torch.testing.assert_close(gradient.shared[user], shared, rtol=0, atol=1e-8)


def only(histories: Histories, user: int) -> Histories:
    """The cohort of this user alone."""
    mine = slice(histories.splits[user], histories.splits[user + 1])
    length = histories.splits.diff()[user : user + 1]
    return Histories(
        torch.cat([length.new_zeros(1), length]),
        histories.items[mine],
        histories.positives[mine],
        histories.negatives[mine],
    )


@pytest.mark.parametrize("probability", [0.0, PROBABILITY])
def test_no_user_depends_on_the_others_by_a_single_bit(probability: float) -> None:
    """However a run divides a cohort over its nodes, it stays the same run."""
    shape = Shape(max_length=60)
    table, shared = (parameter.float() for parameter in model(shape))
    lengths = np.random.default_rng(2).integers(1, 90, 40).tolist()
    histories, keys = histories_of(lengths), keys_of(len(lengths))
    whole = cohort_gradient(table, shared, shape, histories, probability=probability, keys=keys)
    for user in range(len(lengths)):
        alone = cohort_gradient(
            table, shared, shape, only(histories, user), probability=probability, keys=keys[user : user + 1]
        )
        assert torch.equal(alone.losses[0], whole.losses[user])
        assert torch.equal(dense_rows(alone, 0), dense_rows(whole, user))
        assert torch.equal(alone.shared[0], whole.shared[user])


def test_the_contrastive_task_adds_its_own_gradient_to_the_item_rows() -> None:
    histories = histories_of(LENGTHS)
    generator = np.random.default_rng(4)
    counts = torch.tensor([length if length > 1 else 0 for length in LENGTHS])
    splits = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    draws = ContrastiveDraws(splits, torch.from_numpy(generator.integers(0, NUM_ITEMS, (int(splits[-1]), 5))))
    plain = cohort_gradient(*model(), SHAPE, histories)
    both = cohort_gradient(*model(), SHAPE, histories, contrastive=draws, contrastive_weight=0.5)
    assert torch.equal(both.shared, plain.shared)
    for user in range(len(LENGTHS)):
        table = model()[0].requires_grad_()
        vectors = table[draws.items[splits[user] : splits[user + 1]]]
        loss = vectors.sum() * 0
        if len(vectors):
            logits = (vectors[:, 1:] @ vectors[:, 0].unsqueeze(-1)).squeeze(-1)
            loss = -0.5 * (logits[:, 0] - logits.logsumexp(-1)).mean()
        (added,) = torch.autograd.grad(loss, table)
        torch.testing.assert_close(both.losses[user] - plain.losses[user], loss.detach(), rtol=0, atol=1e-8)
        torch.testing.assert_close(dense_rows(both, user) - dense_rows(plain, user), added, rtol=0, atol=1e-8)


def test_rows_are_unique_sorted_and_those_the_user_touched() -> None:
    histories = histories_of(LENGTHS)
    gradient = cohort_gradient(*model(), SHAPE, histories)
    for user in range(len(LENGTHS)):
        window = slice(max(histories.splits[user], histories.splits[user + 1] - 13), histories.splits[user + 1])
        items = histories.items[window].tolist()
        touched = set(items) | set(histories.negatives[window].tolist()[1:]) if len(items) > 1 else set()
        mine = slice(gradient.row_splits[user], gradient.row_splits[user + 1])
        assert gradient.items[mine].tolist() == sorted(touched)


def test_a_user_with_one_item_teaches_nothing() -> None:
    gradient = cohort_gradient(*model(), SHAPE, histories_of([1, 1]), probability=PROBABILITY, keys=keys_of(2))
    assert gradient.num_pairs.tolist() == [0, 0]
    assert gradient.losses.tolist() == [0, 0]
    assert gradient.row_splits.tolist() == [0, 0, 0]
    assert not gradient.shared.any()


def test_an_empty_cohort_has_empty_gradients() -> None:
    gradient = cohort_gradient(*model(), SHAPE, histories_of([]))
    assert gradient.shared.shape == (0, sasrec.shared_size(SHAPE))
    assert gradient.rows.shape == (0, SHAPE.dim)
    assert gradient.row_splits.tolist() == [0]


def test_float32_is_the_same_to_rounding() -> None:
    shape = Shape()
    table, shared = model(shape)
    histories = histories_of([150, 30, 220, 2])
    exact = cohort_gradient(table, shared, shape, histories, probability=0.2, keys=keys_of(4))
    rounded = cohort_gradient(table.float(), shared.float(), shape, histories, probability=0.2, keys=keys_of(4))
    assert rounded.shared.dtype == rounded.rows.dtype == torch.float32
    torch.testing.assert_close(rounded.shared.double(), exact.shared, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rounded.rows.double(), exact.rows, rtol=1e-3, atol=1e-4)


def test_dropout_without_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="key"):
        cohort_gradient(*model(), SHAPE, histories_of([4]), probability=PROBABILITY)


@pytest.mark.parametrize("max_tokens", [1, 100, 1000, 100_000])
def test_batches_are_bounded_mostly_full_and_hold_every_user_once(max_tokens: int) -> None:
    lengths = torch.from_numpy(np.random.default_rng(0).integers(0, 200, 300))
    ends = lengths.cumsum(0)
    seen = []
    for batch in sasrec_batches.batches(ends, lengths, 200, max_tokens):
        assert len(batch.users) > 0
        seen += batch.users.tolist()
        assert batch.real.numel() <= max_tokens or len(batch.users) == 1
        assert batch.real.sum() > batch.real.numel() / 2
        for row, user in enumerate(batch.users.tolist()):
            wanted = list(range(int(ends[user] - lengths[user]), int(ends[user])))
            assert batch.places[row][batch.real[row]].tolist() == wanted
    assert sorted(seen) == lengths.nonzero().flatten().tolist()


def test_pair_loss_survives_a_margin_beyond_every_exponent() -> None:
    states = torch.full((1, 1, 1), -1e4)
    loss = sasrec_cohort.pair_losses(states, torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    assert loss.item() == pytest.approx(-math.log(1e-8), rel=1e-6)
