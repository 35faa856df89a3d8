"""UNION measures what its paper says and drops who makes items collapse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from random_updates import Floats, Shape, dense, model_of, random_updates, shapes, view

from models.adam import Moments
from protocol.updates import Gradient, Updates, concat, make_updates
from strategies.rules.union import Union, UnionOptions, smaller_cluster, with_plain_steps
from strategies.server_model import ServerModel
from strategies.sparse.squared_uniformity import squared_uniformities
from strategies.sparse.uniformity import uniformities


def stepped_by_torch(model: ServerModel, gradient: Floats) -> torch.Tensor:
    """The item table after one step of PyTorch's own Adam in the model's state, L2 by its weight decay."""
    table = model.items.clone().requires_grad_()
    optimizer = torch.optim.Adam([table], lr=model.learning_rate, weight_decay=model.weight_decay)
    optimizer.state[table] = {
        "step": torch.tensor(float(model.round)),
        "exp_avg": model.items_moments.first.clone(),
        "exp_avg_sq": model.items_moments.second.clone(),
    }
    table.grad = torch.from_numpy(gradient.reshape(model.items.shape))
    optimizer.step()
    return table.detach()


def mean_pairwise_distance(rows: torch.Tensor) -> float:
    k = len(rows)
    total = sum(float((rows[a] - rows[b]).norm()) for a in range(k) for b in range(k) if a != b)
    return total / (k * (k - 1))


@given(shape=shapes(largest=6))
@settings(max_examples=40, deadline=None)
def test_uniformity_is_that_of_the_drawn_rows_after_a_step_with_each_update_alone(shape: Shape) -> None:
    updates, model = random_updates(shape), model_of(shape, weight_decay=0.1)
    drawn = torch.from_numpy(np.random.default_rng(shape.seed).permutation(shape.num_items)[:7].copy())
    found = uniformities(updates, model, drawn)
    if len(drawn) < 2:
        assert not found.any()
        return
    gradients = dense(updates, shape.num_items)[:, : shape.num_items * shape.dim]
    expected = [mean_pairwise_distance(stepped_by_torch(model, gradient)[drawn]) for gradient in gradients]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def mean_squared_distance(rows: torch.Tensor) -> float:
    k = len(rows)
    total = sum(float((rows[a] - rows[b]).square().sum()) for a in range(k) for b in range(k) if a != b)
    return total / (k * (k - 1))


@pytest.mark.parametrize("scaled", [False, True])
@given(shape=shapes(largest=6))
@settings(max_examples=25, deadline=None)
def test_as_printed_uniformity_is_the_squared_one_after_a_plain_step(scaled: bool, shape: Shape) -> None:
    """Eq. 6 and Algorithm 2, line 2, by hand: Θ − η(g + λΘ), where a shorter update has its share of the L2 term."""
    model = model_of(shape, weight_decay=0.3)
    shares = torch.linspace(0.2, 1, shape.n, dtype=torch.float64) if scaled else torch.ones(shape.n)
    updates = random_updates(shape)
    if scaled:
        updates = updates.scale(shares)
    if shape.num_items < 2:
        assert not squared_uniformities(updates, model, torch.arange(shape.num_items)).any()
        return
    drawn = torch.from_numpy(np.random.default_rng(shape.seed).permutation(shape.num_items)[:7].copy())
    gradients = torch.from_numpy(dense(updates, shape.num_items)[:, : shape.num_items * shape.dim])
    tables = gradients.view(shape.n, shape.num_items, shape.dim) + shares.view(-1, 1, 1) * 0.3 * model.items
    steps = [(model.items - model.learning_rate * table)[drawn] for table in tables]
    plain = with_plain_steps(model)
    for measure, slow in ((squared_uniformities, mean_squared_distance), (uniformities, mean_pairwise_distance)):
        expected = [slow(rows) for rows in steps]
        np.testing.assert_allclose(measure(updates, plain, drawn).numpy(), expected, rtol=1e-6, atol=1e-12)
    if not scaled:
        slow_adam = [stepped_by_torch(model, row.numpy())[drawn] for row in gradients]
        expected = [mean_squared_distance(rows) for rows in slow_adam]
        np.testing.assert_allclose(squared_uniformities(updates, model, drawn).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("step", "distance"), [("adam", "squared"), ("sgd", "plain"), ("sgd", "squared")])
def test_who_pulls_items_together_is_dropped_as_printed_too(step: str, distance: str) -> None:
    updates, model = collapsing_cohort(5)
    options = UnionOptions(num_items=200, step=step, distance=distance)  # type: ignore[arg-type]
    verdict = Union(options=options).aggregate(updates, view(model)).verdicts[0]
    assert {*verdict.users[~verdict.kept].tolist()} == {*range(1000, 1005)}


@given(shape=shapes(largest=6))
@settings(max_examples=30, deadline=None)
def test_uniformity_of_scaled_updates_scales_their_l2_term_too(shape: Shape) -> None:
    model = model_of(shape, weight_decay=0.5)
    shares = torch.linspace(0.2, 1, shape.n, dtype=torch.float64)
    updates = random_updates(shape).scale(shares)
    if shape.num_items < 2:
        return
    tables = dense(updates, shape.num_items, model.common)[:, : shape.num_items * shape.dim]
    without_decay = ServerModel(
        model.items, model.shared, model.items_moments, model.shared_moments, model.learning_rate, 0.0, model.round
    )
    expected = [mean_pairwise_distance(stepped_by_torch(without_decay, table)) for table in tables]
    np.testing.assert_allclose(uniformities(updates, model, torch.arange(shape.num_items)).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("centre", [0.0, 30.0])
def test_float32_is_precise_to_a_millionth_even_far_from_the_origin(centre: float) -> None:
    shape = Shape(seed=1, n=8, num_items=300, dim=16, num_shared=0, density=0.4)
    updates, model = random_updates(shape, scale=1e-3), model_of(shape, rounds=20)

    def single(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.float32)

    items = single(model.items + centre)
    moments = Moments(single(model.items_moments.first), single(model.items_moments.second))
    narrow = ServerModel(items, single(model.shared), moments, moments, 2e-3, 0.0, model.round)
    wide_moments = Moments(moments.first.double(), moments.second.double())
    wide = ServerModel(items.double(), model.shared, wide_moments, wide_moments, 2e-3, 0.0, model.round)
    narrow_updates = make_updates(
        updates.users, updates.num_examples, updates.row_splits, updates.items, single(updates.rows)
    )
    wide_updates = make_updates(
        updates.users, updates.num_examples, updates.row_splits, updates.items, narrow_updates.rows.double()
    )
    drawn = torch.arange(0, 300, 2)
    expected = uniformities(wide_updates, wide, drawn).numpy()
    # A parameter near 30 is itself known to 2e-6 of the distances between the items after a float32 step.
    allowed = 1e-6 if centre == 0 else 1e-5
    np.testing.assert_allclose(uniformities(narrow_updates, narrow, drawn).numpy(), expected, rtol=allowed)


def collapsing_cohort(num_malicious: int, seed: int = 0) -> tuple[Updates, ServerModel]:
    """Benign users who touch a tenth of the items at random, and attackers who pull all items together."""
    shape = Shape(seed, n=50 - num_malicious, num_items=400, dim=8, num_shared=0, density=0.1)
    model = model_of(shape, rounds=0)
    for step in range(30):
        noise = np.random.default_rng((seed, step)).normal(0, 1e-3, (400, 8))
        model = model.step(Gradient(torch.from_numpy(noise), model.shared))
    benign = random_updates(shape, scale=1e-3)
    if not num_malicious:
        return benign, model
    malicious = make_updates(
        users=torch.arange(num_malicious) + 1000,
        num_examples=torch.full((num_malicious,), 50),
        row_splits=torch.arange(num_malicious + 1) * 400,
        items=torch.arange(400).repeat(num_malicious),
        rows=(model.items - model.items.mean(0)).repeat(num_malicious, 1) * 0.05,
    )
    return concat([benign, malicious]), model


@pytest.mark.parametrize("num_malicious", [1, 3, 10])
def test_updates_that_pull_items_together_are_dropped_and_no_others(num_malicious: int) -> None:
    updates, model = collapsing_cohort(num_malicious)
    verdict = Union(options=UnionOptions(num_items=200)).aggregate(updates, view(model)).verdicts[0]
    assert {*verdict.users[~verdict.kept].tolist()} == {*range(1000, 1000 + num_malicious)}
    assert verdict.scores[~verdict.kept].min() > verdict.scores[verdict.kept].max()


def test_without_attack_hardly_anybody_is_dropped() -> None:
    dropped = 0
    for seed in range(20):
        updates, model = collapsing_cohort(0, seed)
        verdict = Union(options=UnionOptions(num_items=200)).aggregate(updates, view(model, seed=seed)).verdicts[0]
        dropped += bool((~verdict.kept).any())
    assert dropped <= 2


def test_equal_or_few_updates_are_all_kept() -> None:
    updates, model = collapsing_cohort(2)
    two = updates.select(torch.tensor([0, 49]))
    same = updates.select(torch.tensor([3, 3, 3, 3]))
    for cohort in (two, same):
        verdict = Union().aggregate(cohort, view(model)).verdicts[0]
        assert bool(verdict.kept.all())


def test_the_less_uniform_of_two_equally_large_clusters_goes() -> None:
    assert smaller_cluster(np.array([5.0, 0.0, 5.1, 0.1])).tolist() == [False, True, False, True]
    assert smaller_cluster(np.array([5.0, 0.0, 0.1])).tolist() == [True, False, False]


def test_the_small_minority_goes_on_request_whatever_the_gap_statistic_says() -> None:
    updates, model = collapsing_cohort(0)
    for limit, expected in ((0, 0), (25, None)):
        options = UnionOptions(num_items=200, drop_small_minority=True, num_malicious_nodes=limit)
        verdict = Union(options=options).aggregate(updates, view(model)).verdicts[0]
        dropped = int((~verdict.kept).sum())
        assert dropped == expected if expected is not None else 1 <= dropped <= 25
