"""SupportBound catches whoever touches more items than it can have interacted with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_updates import Shape, model_of, random_updates, shapes, view

from protocol.updates import Updates, make_updates, splits_of
from server.config import server_config
from settings.options import Scalar
from strategies.rules.support_bound import SupportBound, SupportBoundOptions, thin

SHAPE = Shape(0, 1, 100, 2, 0, 1.0)


def users_with(counts: list[int], examples: list[int]) -> Updates:
    items = torch.cat([torch.arange(count) for count in counts])
    splits = splits_of(torch.tensor(counts))
    return make_updates(
        torch.arange(len(counts)), torch.tensor(examples), splits, items, torch.ones(len(items), 2).double()
    )


def test_an_honest_users_rows_are_within_the_bound_whatever_the_task() -> None:
    for per_example in (2, 17):
        examples = [1, 3, 5]
        updates = users_with([per_example * count for count in examples], examples)
        rule = SupportBound(options=SupportBoundOptions(rows_per_example=per_example))
        assert bool(rule.aggregate(updates, view(model_of(SHAPE))).verdicts[0].kept.all())


@pytest.mark.parametrize(("task", "expected"), [("on", 17.0), ("off", 2.0)])
def test_by_default_a_run_allows_what_its_own_task_touches(task: str, expected: float) -> None:
    run_config: dict[str, Scalar] = {
        "defense": "support-bound",
        "contrastive-task": task,
        "support-bound-rows-per-example": 0.0,
    }
    assert server_config(run_config).rule().options.rows_per_example == expected


def test_a_user_who_touches_everything_is_rejected() -> None:
    updates = users_with([10, 6, 100], [5, 3, 8])
    verdict = SupportBound().aggregate(updates, view(model_of(SHAPE))).verdicts[0]
    assert verdict.kept.tolist() == [True, True, False]
    assert int(verdict.scores.argmax()) == 2


def test_the_cohorts_median_bounds_who_lies_about_the_number_of_examples() -> None:
    updates = users_with([10, 6, 12, 9, 100], [5, 3, 6, 5, 1000])
    lenient = SupportBound().aggregate(updates, view(model_of(SHAPE))).verdicts[0]
    assert bool(lenient.kept.all())
    rule = SupportBound(options=SupportBoundOptions(reference="cohort"))
    assert rule.aggregate(updates, view(model_of(SHAPE))).verdicts[0].kept.tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("claim", [500, 10**6])
def test_examples_that_nobody_else_has_allow_no_more_rows(claim: int) -> None:
    updates = users_with([10, 6, 12, 9, 100], [5, 3, 6, 4, claim])
    rule = SupportBound(options=SupportBoundOptions(examples_factor=9.0))
    # The median of the claims is 5: at most 2 · (9 · 5 + 1) rows.
    verdict = rule.aggregate(updates, view(model_of(SHAPE))).verdicts[0]
    assert verdict.kept.tolist() == [True] * 4 + [False]
    assert float(verdict.scores[-1]) == pytest.approx(100 / 92)
    believing = SupportBound(options=SupportBoundOptions(examples_factor=0.0))
    assert bool(believing.aggregate(updates, view(model_of(SHAPE))).verdicts[0].kept.all())


def test_somebody_is_always_left() -> None:
    updates = users_with([40, 90, 100], [1, 1, 1])
    verdict = SupportBound().aggregate(updates, view(model_of(SHAPE))).verdicts[0]
    assert verdict.kept.tolist() == [True, False, False]


@given(shape=shapes(), limit=st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_thinning_keeps_as_many_of_an_updates_own_rows_as_are_allowed(shape: Shape, limit: int) -> None:
    updates = random_updates(shape)
    thinned = thin(updates, torch.full((shape.n,), limit), np.random.default_rng(0))
    assert thinned.row_counts.tolist() == updates.row_counts.clamp(max=limit).tolist()
    for k in range(shape.n):
        before = slice(int(updates.row_splits[k]), int(updates.row_splits[k + 1]))
        after = slice(int(thinned.row_splits[k]), int(thinned.row_splits[k + 1]))
        rows = {int(item): row.tolist() for item, row in zip(updates.items[before], updates.rows[before], strict=True)}
        items = thinned.items[after].tolist()
        assert items == sorted(set(items))
        assert [rows[item] for item in items] == thinned.rows[after].tolist()


def test_every_row_is_equally_likely_to_survive_thinning() -> None:
    updates = users_with([20], [1])
    survived = torch.zeros(20)
    for seed in range(400):
        survived[thin(updates, torch.tensor([5]), np.random.default_rng(seed)).items] += 1
    # 400 draws at 1/4: a standard deviation of 8.7 around 100.
    assert bool(((survived - 100).abs() < 45).all())
