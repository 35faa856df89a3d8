"""No user goes further in a round than a multiple of what the cohort does; honest cohorts keep every bit."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_updates import Shape, dense, model_of, random_updates, shapes, view

from benchmarks.cohorts import cohort, table
from models.adam import EPSILON
from protocol.admission import LARGEST_VALUE
from protocol.updates import Updates, splits_of
from settings.options import OptionError, read
from settings.run import RunOptions
from strategies import RULES
from strategies.chain import compose
from strategies.cohort_bounds import bounded
from strategies.rule import Mean, MeanOptions
from strategies.rules.norm_bound import NormBound
from strategies.server_model import ServerModel

VALUE_BOUND = 24.0
NUM_ITEMS, USERS = 300, 24


def lowered_slowly(updates: Updates, num_items: int, value_bound: float) -> Updates:
    """The bounds, user by user."""
    n = len(updates)
    weights = [min(count, num_items) for count in updates.num_examples.tolist()]
    rows, shared = updates.rows.clone(), updates.shared.clone()
    for values, of_user in (
        (rows, [slice(*updates.row_splits[k : k + 2].tolist()) for k in range(n)]),
        (shared, [slice(k, k + 1) for k in range(n)]),
    ):
        largest = [float(values[own].abs().max()) if values[own].numel() else 0.0 for own in of_user]
        sent = sorted(value for value in largest if value > 0)
        if not sent:
            continue
        most = value_bound * sent[(len(sent) - 1) // 2]
        for k in range(n):
            for place in range(of_user[k].start, of_user[k].stop):
                value = float(values[place].abs().max()) if values.shape[1] else 0.0
                if value > most:
                    values[place] *= most / value
    return replace(updates, num_examples=torch.tensor(weights), rows=rows, shared=shared)


@given(shape=shapes(), huge=st.integers(0, 3), weight=st.sampled_from([1, 10**6]), factor=st.sampled_from([1.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_bounds_are_what_they_say_user_by_user(shape: Shape, huge: int, weight: int, factor: float) -> None:
    updates = random_updates(shape)
    attackers = torch.arange(shape.n) < huge
    scale = torch.where(attackers, 1e9, 1.0).double()
    updates = replace(
        updates,
        num_examples=torch.where(attackers, weight, updates.num_examples),
        rows=updates.rows * scale[updates.row_owner].unsqueeze(1),
        shared=updates.shared * scale.unsqueeze(1),
    )
    found = bounded(updates, factor, model_of(shape))
    expected = lowered_slowly(updates, shape.num_items, factor)
    assert found.updates.num_examples.tolist() == expected.num_examples.tolist()
    torch.testing.assert_close(found.updates.rows, expected.rows, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.updates.shared, expected.shared, rtol=1e-9, atol=0)
    assert found.weights == int((expected.num_examples != updates.num_examples).sum())


@given(shape=shapes(), value_bound=st.sampled_from([0.0, 1e30]))
@settings(max_examples=30, deadline=None)
def test_without_bounds_and_within_them_nothing_changes(shape: Shape, value_bound: float) -> None:
    updates = replace(random_updates(shape), num_examples=torch.ones(shape.n, dtype=torch.int64))
    found = bounded(updates, value_bound, model_of(shape))
    assert (found.weights, found.values) == (0, 0)
    assert found.updates is updates


def test_differences_stay_as_they_are_since_no_optimizer_remembers_them() -> None:
    shape = Shape(0, 5, 400, 2, 3, 0.1)
    updates = random_updates(shape)
    updates = replace(updates, shared=updates.shared * torch.tensor([1e9, 1, 1, 1, 1]).double().unsqueeze(1))
    assert bounded(updates, VALUE_BOUND, replace(model_of(shape), optimizer="sgd")).updates is updates


def test_nobody_weighs_more_than_there_are_items() -> None:
    shape = Shape(0, 3, 200, 2, 0, 0.1)
    updates = replace(random_updates(shape), num_examples=torch.tensor([5, 200, 10**6]))
    found = bounded(updates, VALUE_BOUND, model_of(shape))
    assert found.updates.num_examples.tolist() == [5, 200, 200]
    assert found.weights == 1


@given(shape=shapes(smallest=2), claim=st.sampled_from([1, 10**3, 10**6]), bound=st.sampled_from([1.0, 2.5, 4.0]))
@settings(max_examples=40, deadline=None)
def test_behind_another_rule_a_claimed_weight_is_worth_no_more_than_a_multiple_of_the_median(
    shape: Shape, claim: int, bound: float
) -> None:
    updates = random_updates(shape)
    claims = updates.num_examples.clone()
    claims[0] = claim
    updates = replace(updates, num_examples=claims)
    model = model_of(shape)
    options = {"norm-bound-threshold": 1e9, "mean-weight-bound": bound}
    found = compose("norm-bound", options, shape.n, 0).aggregate(updates, view(model)).gradient
    believed = np.minimum(claims.numpy(), int(bound * sorted(claims.tolist())[(shape.n - 1) // 2]))
    expected = np.average(dense(updates, shape.num_items), axis=0, weights=believed)
    made = np.concatenate([found.items.numpy().ravel(), found.shared.numpy()])
    np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-12)
    # The plain mean is the papers' FedAvg: it believes what is told.
    plain = compose("none", options, shape.n, 0).aggregate(updates, view(model)).gradient
    expected = np.average(dense(updates, shape.num_items), axis=0, weights=claims.numpy())
    np.testing.assert_allclose(np.concatenate([plain.items.numpy().ravel(), plain.shared.numpy()]), expected, rtol=1e-6)


def test_a_chain_bounds_weights_and_single_rules_made_without_options_do_not() -> None:
    assert compose("norm-bound", {}, 50, 0.1).inner.options == MeanOptions()  # type: ignore[attr-defined]
    assert NormBound().inner.options.weight_bound == 0
    assert Mean().options.weight_bound == 0


def test_a_bound_below_the_median_is_refused() -> None:
    for bound in (0.5, -1.0):
        with pytest.raises(OptionError, match="mean-weight-bound"):
            read(MeanOptions, {"mean-weight-bound": bound}, "mean")
        with pytest.raises(OptionError, match="value-bound"):
            read(RunOptions, {"value-bound": bound})


OF_IMAGES = ("accuracy-check", "distance-range", "fltrust")
"""Their updates are differences, which are not held: no optimizer remembers them."""

DEFENSES = [name for name in ["none", *RULES] if name not in ("mean", *OF_IMAGES)]


def honest(server_round: int) -> Updates:
    """A cohort of users whose gradients are means over their examples."""
    updates = cohort(USERS, NUM_ITEMS, 8, mean_examples=40.0, malicious=0, seed=server_round)
    return replace(updates, rows=updates.rows / updates.num_examples[updates.row_owner].unsqueeze(1))


def poisoned(updates: Updates, attackers: int) -> Updates:
    """The first users send the largest value that is admitted in every row."""
    bad = torch.arange(len(updates)) < attackers
    keep = ~bad[updates.row_owner]
    generator = np.random.default_rng(5)
    huge = generator.choice([LARGEST_VALUE, -LARGEST_VALUE], (attackers * NUM_ITEMS, updates.dim)).astype(np.float32)
    counts = torch.where(bad, NUM_ITEMS, updates.row_counts)
    return replace(
        updates,
        num_examples=torch.where(bad, 1, updates.num_examples),
        row_splits=splits_of(counts),
        items=torch.cat([torch.arange(NUM_ITEMS).repeat(attackers), updates.items[keep]]),
        rows=torch.cat([torch.from_numpy(huge), updates.rows[keep]]),
    )


@cache
def steps(defense: str, value_bound: float, attackers: int, poisoned_round: int = 4) -> np.ndarray:
    """By how much a later gradient of size 1 would move each item's coordinates, after four rounds.

    In one of them there are so many attackers.
    """
    items = table(NUM_ITEMS, 8)
    model = ServerModel.start(items, items.new_zeros(0), 2e-3, 0.0)
    rule = compose(defense, {"support-bound-rows-per-example": 40.0}, USERS, 0.05)
    for server_round in range(1, 5):
        updates = honest(server_round)
        if attackers and server_round == poisoned_round:
            updates = poisoned(updates, attackers)
        server = replace(view(model, USERS), generator=np.random.default_rng(server_round))
        model = model.step(rule.aggregate(bounded(updates, value_bound, model).updates, server).gradient)
    return 1 / (model.items_moments.second.sqrt().numpy() + EPSILON)


@pytest.mark.parametrize("attackers", [1, 2, 5])
@pytest.mark.parametrize("defense", DEFENSES)
def test_one_round_of_huge_updates_does_not_keep_the_items_from_learning(defense: str, attackers: int) -> None:
    slowed = steps(defense, VALUE_BOUND, attackers) / steps(defense, VALUE_BOUND, 0)
    # Worst where more attack than a rule without weights assumes; without the bound it is 1e-12 (below).
    assert np.median(slowed) > 1 / 300


def test_not_even_in_the_first_round_when_the_optimizer_knows_nothing() -> None:
    slowed = steps("none", VALUE_BOUND, 5, 1) / steps("none", VALUE_BOUND, 0)
    assert np.median(slowed) > 1 / 300


def test_without_the_bound_one_user_freezes_every_item() -> None:
    """What the others guard against does happen."""
    for defense in ("none", "union"):
        assert np.median(steps(defense, 0.0, 1) / steps(defense, VALUE_BOUND, 0)) < 1e-9
