"""HiCS and the separation of popular items: each against its definition written down one row at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from random_updates import Shape, assert_close, model_of, random_updates, shapes, view
from torch import Tensor

from strategies.rules.hics import Hics, HicsOptions
from strategies.rules.norm_bound import NormBound, NormBoundOptions
from strategies.rules.popularity_separation import PopularitySeparation, PopularitySeparationOptions, separation


@given(shape=shapes())
@settings(max_examples=10, deadline=None)
def test_hics_clips_each_row_keeps_the_longest_and_clips_the_whole(shape: Shape) -> None:
    updates, model = random_updates(shape), model_of(shape, weight_decay=0.1)
    found, verdict = Hics(options=HicsOptions(row_bound=0.8, bound=1.1, kept=0.5)).judge(updates, view(model))
    assert bool(verdict.kept.all())
    for user in range(len(updates)):
        mine = slice(updates.row_splits[user], updates.row_splits[user + 1])
        lengths = updates.rows[mine].norm(dim=1)
        longest = sorted(range(len(lengths)), key=lambda row: (-float(lengths[row]), row))
        chosen = sorted(longest[: math.ceil(len(lengths) / 2)])
        rows = {int(updates.items[mine][row]): updates.rows[mine][row] for row in chosen}
        rows = {item: row * min(1.0, 0.8 / float(row.norm())) for item, row in rows.items()}
        whole = 0.1 * model.items
        for item, row in rows.items():
            whole[item] += row
        norm = math.hypot(float(whole.norm()), float((updates.shared[user] + 0.1 * model.shared).norm()))
        factor = min(1.0, 1.1 / norm)
        kept = slice(found.row_splits[user], found.row_splits[user + 1])
        assert found.items[kept].tolist() == list(rows)
        for row, item in zip(found.rows[kept], rows, strict=True):
            assert_close(row, factor * rows[item])
        assert_close(found.shared[user], factor * updates.shared[user])
        assert float(found.l2_share[user]) == pytest.approx(factor, rel=1e-9)


def test_without_a_row_bound_or_sparsity_hics_is_norm_bound() -> None:
    shape = Shape(3, 7, 9, 4, 3, 0.5)
    updates, model = random_updates(shape), model_of(shape, weight_decay=0.1)
    hics = Hics(options=HicsOptions(row_bound=1e9, bound=0.7, kept=1.0)).aggregate(updates, view(model)).gradient
    bound = NormBound(options=NormBoundOptions(0.7)).aggregate(updates, view(model)).gradient
    assert torch.equal(hics.items, bound.items)
    assert torch.equal(hics.shared, bound.shared)


def regulariser(table: Tensor, popular: list[int]) -> Tensor:
    """R as it is defined, pair by pair."""
    units = [row / row.norm() for row in table]
    others = [item for item in range(len(table)) if item not in popular]
    terms = [torch.exp(-2 * (units[h] - units[n]).square().sum()) for h in popular for n in others]
    return torch.stack(terms).mean().log()


def test_separation_is_the_gradient_of_its_definition() -> None:
    table = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    expected = regulariser(table, [1, 4])
    (by_row,) = torch.autograd.grad(expected, table)
    value, gradient = separation(table.detach(), torch.tensor([1, 4]))
    assert value == pytest.approx(float(expected.detach()), rel=1e-10)
    torch.testing.assert_close(gradient, by_row, rtol=1e-9, atol=1e-12)
    assert separation(table.detach(), torch.arange(9))[1].count_nonzero() == 0


def test_popularity_is_counted_over_rounds_and_goes_on_from_its_state() -> None:
    shape = Shape(5, 8, 10, 4, 0, 0.5)
    model = model_of(shape)
    rounds = [random_updates(replace(shape, seed=seed)) for seed in range(3)]
    options = PopularitySeparationOptions(weight=1.0, popular=0.2)
    rule, plain = PopularitySeparation(options=options), PopularitySeparation(options=replace(options, weight=0.0))
    for updates in rounds[:2]:
        rule.aggregate(updates, view(model))
    resumed = PopularitySeparation(options=options)
    resumed.restore(rule.state())
    found = rule.aggregate(rounds[2], view(model)).gradient.items
    assert torch.equal(found, resumed.aggregate(rounds[2], view(model)).gradient.items)
    counts = sum(torch.bincount(updates.items, minlength=10) for updates in rounds)
    assert isinstance(counts, Tensor)
    popular = sorted(sorted(range(10), key=lambda item: (-int(counts[item]), item))[:2])
    without = plain.aggregate(rounds[2], view(model)).gradient.items
    assert_close(found - without, separation(model.items, torch.tensor(popular))[1])
