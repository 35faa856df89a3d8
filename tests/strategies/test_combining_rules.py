"""The geometric median, centered clipping, MeaMed, FoolsGold and FLTrust against their papers' formulas."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from dense_references import (
    centered_clipping,
    fools_gold_weights,
    geometric_median,
    mean_around_median,
    trusted_mean,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from random_updates import (
    Shape,
    assert_close,
    dense,
    flat,
    from_dense,
    model_of,
    random_updates,
    shapes,
    view,
    whole,
)

from protocol.updates import concat
from settings.options import OptionError
from strategies.rule import Rule
from strategies.rules.centered_clipping import CenteredClipping, CenteredClippingOptions
from strategies.rules.fltrust import FlTrust
from strategies.rules.fools_gold import FoolsGold, FoolsGoldOptions
from strategies.rules.geometric_median import GeometricMedian, GeometricMedianOptions
from strategies.rules.meamed import Meamed, MeamedOptions
from strategies.sparse.inner_products import inner_products

each_rule = settings(max_examples=40, deadline=None)
decays = st.sampled_from([0.0, 0.5])


@given(shape=shapes(), weight_decay=decays)
@each_rule
def test_inner_products_are_those_of_whole_updates(shape: Shape, weight_decay: float) -> None:
    model = model_of(shape, weight_decay)
    updates = random_updates(shape).scale(torch.linspace(0, 1, shape.n, dtype=torch.float64))
    matrix = dense(updates, shape.num_items, model.common)
    assert_close(inner_products(updates, model).numpy(), matrix @ matrix.T)


@given(shape=shapes(), iterations=st.integers(1, 6), weight_decay=decays)
@each_rule
def test_the_geometric_median_is_the_papers(shape: Shape, iterations: int, weight_decay: float) -> None:
    updates, model = random_updates(shape), model_of(shape, weight_decay)
    matrix = dense(updates, shape.num_items, model.common)
    result = GeometricMedian(GeometricMedianOptions(iterations, 0.1)).aggregate(updates, view(model))
    expected = geometric_median(matrix, iterations, 0.1)
    assert_close(whole(result.gradient, model), expected)
    # The rule sums squared distances out of products: of a distance near 0 their roots have half of the digits.
    assert_close(result.verdicts[0].scores.numpy() ** 2, np.square(matrix - expected).sum(1))


def test_many_iterations_find_the_point_with_the_smallest_sum_of_distances() -> None:
    shape = Shape(3, 9, 6, 3, 2, 0.5)
    updates, model = random_updates(shape), model_of(shape)
    matrix = dense(updates, shape.num_items)
    found = flat(GeometricMedian(GeometricMedianOptions(200)).aggregate(updates, view(model)).gradient)

    def total(point: np.ndarray) -> float:
        return float(np.linalg.norm(matrix - point, axis=1).sum())

    generator = np.random.default_rng(0)
    others = [found + generator.normal(0, size, found.shape) for size in (1e-3, 1e-2, 1.0) for _ in range(50)]
    assert total(found) < min(map(total, others))
    assert total(found) < total(matrix.mean(0))


@given(shape=shapes(), threshold=st.sampled_from([0.3, 2.0, 100.0]), iterations=st.integers(1, 4), weight_decay=decays)
@each_rule
def test_centered_clipping_is_the_papers(shape: Shape, threshold: float, iterations: int, weight_decay: float) -> None:
    updates, model = random_updates(shape), model_of(shape, weight_decay)
    matrix = dense(updates, shape.num_items, model.common)
    rule = CenteredClipping(CenteredClippingOptions(threshold, iterations))
    result = rule.aggregate(updates, view(model)).gradient
    np.testing.assert_allclose(
        whole(result, model), centered_clipping(matrix, threshold, iterations), rtol=1e-5, atol=1e-7
    )


def test_the_usual_threshold_is_the_median_norm() -> None:
    shape = Shape(4, 10, 6, 3, 2, 0.5)
    updates, model = random_updates(shape), model_of(shape)
    matrix = dense(updates, shape.num_items)
    result = flat(CenteredClipping().aggregate(updates, view(model)).gradient)
    assert_close(result, centered_clipping(matrix, float(np.median(np.linalg.norm(matrix, axis=1))), 3))


@given(shape=shapes(), f=st.integers(0, 5))
@each_rule
def test_meamed_averages_the_values_nearest_to_the_median(shape: Shape, f: int) -> None:
    updates, model = random_updates(shape), model_of(shape)
    result = Meamed(MeamedOptions(num_malicious_nodes=f)).aggregate(updates, view(model)).gradient
    expected = mean_around_median(dense(updates, shape.num_items), min(f, (shape.n - 1) // 2))
    assert_close(flat(result), expected)


@given(shape=shapes(), confidence=st.sampled_from([0.5, 1.0]))
@each_rule
def test_fools_gold_is_the_papers(shape: Shape, confidence: float) -> None:
    updates, model = random_updates(shape), model_of(shape)
    matrix = dense(updates, shape.num_items)
    weights = fools_gold_weights(matrix, confidence)
    result = FoolsGold(FoolsGoldOptions(confidence)).aggregate(updates, view(model))
    np.testing.assert_allclose(1 - result.verdicts[0].scores.numpy(), weights, atol=1e-6)
    np.testing.assert_allclose(flat(result.gradient), weights @ matrix / weights.sum(), rtol=1e-5, atol=1e-6)


def test_fools_gold_gives_no_weight_to_copies_of_one_update() -> None:
    shape = Shape(8, 9, 12, 4, 0, 1.0)
    honest = random_updates(shape)
    copied = from_dense(np.repeat(np.random.default_rng(1).normal(size=(1, 48)), 4, 0), 12)
    copies = replace(copied, users=copied.users + 1000, l2_share=copied.l2_share.double())
    verdict = FoolsGold().aggregate(concat([honest, copies]), view(model_of(shape))).verdicts[0]
    assert verdict.users[~verdict.kept].tolist() == [1000, 1001, 1002, 1003]


def trusting(shape: Shape, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What FLTrust makes of the updates of a classifier, and the matrix of these."""
    updates, model = random_updates(shape), model_of(shape)
    server = replace(view(model), own_update=lambda: torch.from_numpy(reference))
    return flat(FlTrust().aggregate(updates, server).gradient), updates.shared.numpy()


@given(seed=st.integers(0, 1000), n=st.integers(1, 9))
@each_rule
def test_fltrust_weighs_by_how_far_an_update_points_the_servers_way(seed: int, n: int) -> None:
    shape = Shape(seed, n, 0, 1, 12, 1.0)
    reference = np.random.default_rng(seed + 1).normal(size=12)
    result, matrix = trusting(shape, reference)
    assert_close(result, trusted_mean(matrix, reference))
    assert np.linalg.norm(result) <= np.linalg.norm(reference) * (1 + 1e-9)


def test_fltrust_leaves_the_model_alone_where_nobody_points_the_servers_way() -> None:
    shape = Shape(0, 1, 0, 1, 12, 1.0)
    reference = -random_updates(shape).shared[0].numpy()
    assert not trusting(shape, reference)[0].any()


def test_fltrust_without_data_at_the_server_says_so() -> None:
    shape = Shape(0, 3, 4, 2, 0, 1.0)
    with pytest.raises(OptionError, match="validation set at the server"):
        FlTrust().aggregate(random_updates(shape), view(model_of(shape)))


RULES: dict[str, Rule] = {
    "geometric-median": GeometricMedian(),
    "centered-clipping": CenteredClipping(),
    "meamed": Meamed(MeamedOptions(num_malicious_nodes=2)),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", [1e3, 1e6, 1e9])
def test_two_attackers_among_twelve_move_the_result_a_bounded_way_however_large_they_are(
    name: str, size: float
) -> None:
    shape = Shape(5, 10, 6, 3, 0, 0.6)
    honest, model = random_updates(shape), model_of(shape)
    matrix = dense(honest, shape.num_items)
    huge = from_dense(np.full((2, 18), size), 6)
    updates = concat([honest, replace(huge, users=huge.users + 1000, l2_share=huge.l2_share.double())])
    moved = flat(RULES[name].aggregate(updates, view(model)).gradient)
    # Of all honest updates none is so far from the honest mean as the attackers' least try, a thousand times over.
    furthest = np.linalg.norm(matrix - matrix.mean(0), axis=1).max()
    assert np.linalg.norm(moved - matrix.mean(0)) <= 2 * furthest


@given(shape=shapes(smallest=1))
@each_rule
def test_without_assumed_attackers_meamed_is_the_plain_mean(shape: Shape) -> None:
    updates, model = random_updates(shape), model_of(shape)
    result = Meamed(MeamedOptions(num_malicious_nodes=0)).aggregate(updates, view(model)).gradient
    assert_close(flat(result), dense(updates, shape.num_items).mean(0))


@given(shape=shapes())
@each_rule
def test_a_threshold_beyond_all_norms_leaves_the_plain_mean(shape: Shape) -> None:
    updates, model = random_updates(shape), model_of(shape)
    rule = partial(CenteredClipping, CenteredClippingOptions(threshold=1e6))
    assert_close(flat(rule().aggregate(updates, view(model)).gradient), dense(updates, shape.num_items).mean(0))
