"""The encoder itself: what it may look at, and where its sizes must agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.recommenders import sasrec
from models.recommenders.sasrec import Shape
from models.recommenders.sasrec_scoring import last_hidden

SHAPE = Shape(dim=8, max_length=10, blocks=2)
NUM_ITEMS = 20


def model() -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(5)
    table = torch.from_numpy(generator.normal(0, 0.5, (NUM_ITEMS, SHAPE.dim)))
    return table, sasrec.initial_shared(SHAPE, generator).double()


def states_of(items: list[int]) -> Tensor:
    table, shared = model()
    weights = sasrec.unflatten(shared, SHAPE)
    index = sasrec.position_index(torch.tensor(len(items)), len(items), SHAPE)
    return sasrec.encode(sasrec.embed(table[torch.tensor(items)], weights.positions[index]), weights)


def test_no_position_sees_a_later_item() -> None:
    before, after = states_of([3, 1, 4, 1, 5]), states_of([3, 1, 4, 9, 2])
    torch.testing.assert_close(before[:3], after[:3], rtol=0, atol=1e-12)
    assert not torch.allclose(before[3], after[3])


def test_every_earlier_item_is_seen() -> None:
    assert not torch.allclose(states_of([3, 1, 4, 1, 5])[-1], states_of([6, 1, 4, 1, 5])[-1])


def test_order_matters() -> None:
    assert not torch.allclose(states_of([3, 1, 4])[-1], states_of([1, 3, 4])[-1])


@pytest.mark.parametrize("shape", [SHAPE, Shape(), Shape(16, 100, 1)])
def test_the_flat_vector_is_cut_without_rest(shape: Shape) -> None:
    d, blocks = shape.dim, shape.blocks
    # Per block: five square matrices with biases, two normalisations; then one more normalisation.
    size = shape.max_length * d + blocks * (5 * (d * d + d) + 4 * d) + 2 * d
    assert sasrec.shared_size(shape) == size
    vector = torch.arange(size)
    parts = sasrec.split(vector, shape)
    assert torch.equal(torch.cat([part.flatten() for part in parts]), vector)
    with pytest.raises(ValueError, match="maximum length"):
        sasrec.split(vector[1:], shape)


def test_initial_matrices_are_xavier_and_the_rest_is_neutral() -> None:
    shape = Shape()
    weights = sasrec.unflatten(sasrec.initial_shared(shape, np.random.default_rng(0)), shape)
    for block in weights.blocks:
        for matrix in (block.query, block.key_value, block.inner, block.outer):
            bound = math.sqrt(6 / (64 + 64))
            assert 0.98 * bound < matrix.abs().max() <= bound
            assert matrix.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        for one in (block.attention_gain, block.forward_gain, weights.gain):
            assert (one == 1).all()
        for zero in (block.query_bias, block.key_value_bias, block.inner_bias, block.outer_bias, weights.shift):
            assert not zero.any()


def test_fused_and_written_attention_agree() -> None:
    queries, keys, values = torch.randn(3, 2, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    written = sasrec.attend(queries, keys, values, torch.ones(2, 7, 7, dtype=torch.float64))
    torch.testing.assert_close(written, sasrec.attend(queries, keys, values, None), rtol=0, atol=1e-12)


@pytest.mark.parametrize("max_batch_tokens", [1, 30, 1000])
def test_last_hidden_is_the_newest_state_of_the_newest_items(max_batch_tokens: int) -> None:
    generator = np.random.default_rng(1)
    histories = [generator.integers(0, NUM_ITEMS, length).tolist() for length in (4, 10, 0, 25, 1, 11)]
    splits = torch.tensor([0, *np.cumsum([len(history) for history in histories])])
    items = torch.tensor([item for history in histories for item in history])
    hidden = last_hidden(*model(), SHAPE, splits, items, max_batch_tokens)
    for row, history in zip(hidden, histories, strict=True):
        expected = states_of(history[-10:])[-1] if history else torch.zeros(8, dtype=torch.float64)
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-12)


def test_a_score_does_not_depend_on_the_others_by_a_single_bit() -> None:
    generator = np.random.default_rng(8)
    shape = Shape(max_length=60)
    table = torch.from_numpy(generator.normal(0, 0.5, (NUM_ITEMS, shape.dim)).astype(np.float32))
    shared = sasrec.initial_shared(shape, generator)
    splits = np.concatenate([[0], generator.integers(1, 90, 30).cumsum()])
    items = torch.from_numpy(generator.integers(0, NUM_ITEMS, splits[-1]))
    whole = last_hidden(table, shared, shape, torch.from_numpy(splits), items)
    for user in range(30):
        start, end = splits[user], splits[user + 1]
        alone = last_hidden(table, shared, shape, torch.tensor([0, end - start]), items[start:end])
        assert torch.equal(alone[0], whole[user])
