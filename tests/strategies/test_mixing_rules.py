"""NNM and bucketing in front of other rules, DnC, FLAME and SignGuard, against their papers' formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from dense_references import (
    clipped_to_median,
    cosine,
    neighbor_mixing,
    sign_shares,
    squared_projections,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from random_updates import (
    DropsEverybody,
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
from sklearn.cluster import MeanShift, estimate_bandwidth

from protocol.updates import Updates, concat
from strategies.rule import NobodyLeftError, Wrapper
from strategies.rules.bucketing import Bucketing, BucketingOptions
from strategies.rules.divide_and_conquer import DivideAndConquer, DivideAndConquerOptions
from strategies.rules.flame import Flame, FlameOptions, majority_cluster
from strategies.rules.krum import KrumOptions, MultiKrum
from strategies.rules.median import Median
from strategies.rules.nearest_neighbor_mixing import MixingOptions, NearestNeighborMixing
from strategies.rules.sign_guard import SignGuard, SignGuardOptions
from strategies.sparse.mean_shift import largest_cluster
from strategies.sparse.mixtures import mixtures
from strategies.sparse.sampled_coordinates import sample_coordinates

each_rule = settings(max_examples=40, deadline=None)


@given(shape=shapes(), count=st.integers(1, 6), seed=st.integers(0, 1000))
@each_rule
def test_mixtures_are_weighted_means_that_send_what_a_member_sent(shape: Shape, count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    chosen = generator.random((count, shape.n)) < 0.4
    chosen[:, 0] |= ~chosen.any(1)
    weights = generator.random((count, shape.n)) * chosen
    weights /= weights.sum(1, keepdims=True)
    updates = random_updates(shape)
    mixed = mixtures(updates, torch.from_numpy(weights), torch.arange(count))
    assert_close(dense(mixed, shape.num_items), weights @ dense(updates, shape.num_items))
    assert_close(mixed.l2_share.numpy(), np.ones(count))
    for k in range(count):
        members = updates.select(torch.from_numpy(chosen[k]))
        own = mixed.select(torch.tensor([k]))
        assert own.items.tolist() == sorted(set(members.items.tolist()))
        low, high = int(members.num_examples.min()), int(members.num_examples.max())
        assert low <= int(own.num_examples[0]) <= high


@given(shape=shapes(), f=st.integers(0, 5))
@each_rule
def test_nnm_hands_on_means_of_the_nearest(shape: Shape, f: int) -> None:
    updates, model = random_updates(shape), model_of(shape)
    f = min(f, (shape.n - 1) // 2)
    mixed, verdict = NearestNeighborMixing(options=MixingOptions(num_malicious_nodes=f)).judge(updates, view(model))
    expected = neighbor_mixing(dense(updates, shape.num_items), f)
    assert_close(dense(mixed, shape.num_items), expected)
    assert mixed.users.tolist() == updates.users.tolist()
    assert bool(verdict.kept.all())


@given(shape=shapes(smallest=3), f=st.integers(0, 3), weight_decay=st.sampled_from([0.0, 0.5]))
@each_rule
def test_a_rule_behind_nnm_judges_the_mixtures(shape: Shape, f: int, weight_decay: float) -> None:
    updates, model = random_updates(shape), model_of(shape, weight_decay)
    f = min(f, (shape.n - 1) // 2)
    rule = NearestNeighborMixing(Median(), MixingOptions(num_malicious_nodes=f))
    mixed = neighbor_mixing(dense(updates, shape.num_items, model.common), f)
    assert_close(whole(rule.aggregate(updates, view(model)).gradient, model), np.median(mixed, axis=0))


@given(shape=shapes(), f=st.integers(0, 3), weight_decay=st.sampled_from([0.0, 0.5]))
@each_rule
def test_before_the_mean_nnm_is_the_mean_of_the_mixtures(shape: Shape, f: int, weight_decay: float) -> None:
    updates, model = random_updates(shape), model_of(shape, weight_decay)
    rule = NearestNeighborMixing(options=MixingOptions(num_malicious_nodes=f))
    mixed, _ = rule.judge(updates, view(model))
    weights = mixed.num_examples.numpy() / mixed.num_examples.sum().item()
    matrix = dense(mixed, shape.num_items, model.common)
    assert_close(whole(rule.aggregate(updates, view(model)).gradient, model), weights @ matrix)


@given(shape=shapes(), size=st.integers(1, 5), seed=st.integers(0, 99))
@each_rule
def test_buckets_are_a_partition_of_the_users_and_hand_on_means(shape: Shape, size: int, seed: int) -> None:
    updates, model = random_updates(shape), model_of(shape)
    mixed, verdict = Bucketing(options=BucketingOptions(size)).judge(updates, view(model, seed=seed))
    matrix = dense(updates, shape.num_items)
    # Drawn as the rule draws it: the users in ascending order, permuted.
    order = np.argsort(updates.users.numpy())[np.random.default_rng(seed).permutation(shape.n)]
    buckets = [order[start : start + size] for start in range(0, shape.n, size)]
    assert_close(dense(mixed, shape.num_items), np.stack([matrix[bucket].mean(0) for bucket in buckets]))
    assert mixed.users.tolist() == [int(updates.users[torch.from_numpy(bucket)].min()) for bucket in buckets]
    assert bool(verdict.kept.all())


def test_who_sits_in_a_dropped_bucket_is_dropped() -> None:
    shape = Shape(2, 12, 8, 3, 0, 0.8)
    honest = random_updates(shape)
    huge = from_dense(np.full((1, 24), 1e3), 8)
    updates = concat([honest, replace(huge, users=huge.users + 1000, l2_share=huge.l2_share.double())])
    rule = Bucketing(MultiKrum(options=KrumOptions(num_malicious_nodes=1)), BucketingOptions(2))
    result = rule.aggregate(updates, view(model_of(shape)))
    first, behind = result.verdicts
    assert bool(first.kept.all())
    dropped = behind.users[~behind.kept].tolist()
    assert 1000 in dropped
    assert len(dropped) in (1, 2)
    assert sorted(behind.users.tolist()) == sorted(updates.users.tolist())


@pytest.mark.parametrize("front", [Bucketing, Flame])
def test_where_a_rule_behind_drops_everybody_all_verdicts_are_told(front: type[Wrapper]) -> None:
    shape = Shape(2, 5, 8, 3, 0, 0.8)
    updates = random_updates(shape)
    with pytest.raises(NobodyLeftError) as raised:
        front(DropsEverybody()).aggregate(updates, view(model_of(shape)))
    first, behind = raised.value.verdicts
    assert [first.rule, behind.rule] == [front.name, DropsEverybody.name]
    assert sorted(behind.users.tolist()) == sorted(first.users[first.kept].tolist())
    assert not bool(behind.kept.any())


@given(shape=shapes(smallest=3), f=st.integers(0, 3))
@each_rule
def test_dnc_drops_the_largest_projections_on_the_main_direction(shape: Shape, f: int) -> None:
    updates, model = random_updates(shape), model_of(shape)
    f = min(f, (shape.n - 1) // 2)
    projections = squared_projections(dense(updates, shape.num_items))
    options = DivideAndConquerOptions(num_malicious_nodes=f)
    verdict = DivideAndConquer(options=options).judge(updates, view(model))[1]
    assert int((~verdict.kept).sum()) == f
    if projections.sum() > 1e-9 and np.linalg.matrix_rank(dense(updates, shape.num_items)) > 1:
        singular = np.linalg.svd(
            dense(updates, shape.num_items) - dense(updates, shape.num_items).mean(0), compute_uv=False
        )
        if singular[0] > 1.01 * singular[1]:
            np.testing.assert_allclose(verdict.scores.numpy(), projections / projections.sum(), atol=1e-6)


def test_dnc_looks_at_the_drawn_coordinates_alone() -> None:
    shape = Shape(3, 11, 7, 3, 4, 0.7)
    updates, model = random_updates(shape), model_of(shape)
    options = DivideAndConquerOptions(num_malicious_nodes=2, coordinates=9)
    drawn = sample_coordinates(model, 9, np.random.default_rng(0))
    mask = np.concatenate([drawn.items.numpy().ravel(), drawn.shared.numpy()]) > 0
    assert mask.sum() == 9
    projections = squared_projections(dense(updates, shape.num_items)[:, mask])
    verdict = DivideAndConquer(options=options).judge(updates, view(model, seed=0))[1]
    np.testing.assert_allclose(verdict.scores.numpy(), projections / projections.sum(), atol=1e-6)
    assert set(verdict.kept.logical_not().nonzero().flatten().tolist()) == set(np.argsort(projections)[-2:].tolist())


def test_dnc_looks_at_every_direction_where_several_are_equally_long() -> None:
    """Else the solver's choice, which goes by the order of the users, names the one who is dropped."""
    options = DivideAndConquerOptions(num_malicious_nodes=1)
    model = model_of(Shape(0, 5, 2, 2, 0, 1.0))
    for matrix in (np.zeros((5, 4)), np.ones((5, 4)), np.concatenate([np.eye(4), -np.eye(4)])):
        updates = from_dense(matrix, 2)
        verdict = DivideAndConquer(options=options).judge(updates, view(model))[1]
        np.testing.assert_allclose(verdict.scores.numpy(), np.full(len(matrix), 1 / len(matrix)), rtol=1e-9)


def test_dnc_with_many_iterations_still_keeps_somebody() -> None:
    shape = Shape(3, 5, 30, 3, 0, 0.9)
    options = DivideAndConquerOptions(num_malicious_nodes=2, iterations=40, coordinates=3)
    left, verdict = DivideAndConquer(options=options).judge(random_updates(shape), view(model_of(shape)))
    assert len(left) == int(verdict.kept.sum()) >= 1


def grouped(seed: int, honest: int, malicious: int) -> Updates:
    """Honest updates around one direction and malicious ones around its opposite, the latter with users from 1000."""
    generator = np.random.default_rng(seed)
    direction = generator.normal(size=40)
    matrix = np.concatenate(
        [
            direction + generator.normal(0, 0.3, (honest, 40)),
            3 * (-direction + generator.normal(0, 0.3, (malicious, 40))),
        ]
    )
    updates = from_dense(matrix, 10, np.ones(honest + malicious, dtype=np.int64))
    users = torch.cat([torch.arange(honest), 1000 + torch.arange(malicious)])
    return replace(updates, users=users, l2_share=updates.l2_share.double())


@pytest.mark.parametrize("seed", range(4))
def test_flame_keeps_the_majority_direction_shortened_to_the_median_norm(seed: int) -> None:
    updates, model = grouped(seed, 9, 4), model_of(Shape(0, 13, 10, 4, 0, 1.0))
    result = Flame(options=FlameOptions(noise=0.0)).aggregate(updates, view(model))
    verdict = result.verdicts[0]
    # HDBSCAN calls a few honest ones outliers too, but keeps more than half of all.
    assert not bool(verdict.kept[updates.users >= 1000].any())
    assert int(verdict.kept.sum()) >= 7
    matrix = dense(updates, 10)
    assert_close(flat(result.gradient), clipped_to_median(matrix)[verdict.kept.numpy()].mean(0))
    others = [[1 - cosine(a, b) for b in matrix] for a in matrix]
    assert_close(verdict.scores.numpy(), np.array(others).sum(1) / 12)


def test_flames_noise_has_the_stated_deviation() -> None:
    shape = Shape(1, 9, 400, 8, 50, 0.2)
    updates, model = random_updates(shape), model_of(shape)
    quiet = flat(Flame(options=FlameOptions(0.0)).aggregate(updates, view(model)).gradient)
    noisy = flat(Flame(options=FlameOptions(0.01)).aggregate(updates, view(model)).gradient)
    expected = 0.01 * float(np.median(np.linalg.norm(dense(updates, 400), axis=1)))
    # Five standard errors of the deviation of 3250 normal draws.
    assert (noisy - quiet).std() == pytest.approx(expected, rel=5 / np.sqrt(2 * 3250))


def test_without_a_majority_cluster_flame_keeps_everybody() -> None:
    assert majority_cluster(np.zeros((2, 2))).all()
    assert majority_cluster(1 - np.eye(8)).sum() in (0, 8)


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_cluster_is_scikit_learns(seed: int) -> None:
    generator = np.random.default_rng(seed)
    points = np.concatenate([generator.normal(0, 0.05, (20, 3)), generator.normal(1, 0.05, (7, 3))])
    labels = MeanShift(bandwidth=estimate_bandwidth(points, quantile=0.5)).fit_predict(points)
    expected = labels == np.bincount(labels).argmax()
    np.testing.assert_array_equal(largest_cluster(torch.from_numpy(points)).numpy(), expected)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), distinct=st.integers(1, 3))
@each_rule
def test_the_largest_cluster_of_equal_points_holds_all_that_are_equal(seed: int, n: int, distinct: int) -> None:
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(distinct, 3))[generator.integers(0, distinct, n)]
    inside = largest_cluster(torch.from_numpy(points)).numpy()
    assert inside.any()
    assert not {tuple(row) for row in points[inside]} & {tuple(row) for row in points[~inside]}


def test_sign_guard_keeps_usual_lengths_and_usual_signs() -> None:
    """Sixteen honest users, one of a tenth of the usual length, one of nine times it, two who turned their signs."""
    generator = np.random.default_rng(3)
    sign = np.where(generator.random(80) < 0.8, 1.0, -1.0)
    matrix = np.abs(generator.normal(1, 0.2, (20, 80))) * sign
    matrix[16] *= 0.05
    matrix[17] *= 9
    matrix[18:] *= -1
    updates, model = from_dense(matrix, 20), model_of(Shape(0, 20, 20, 4, 0, 1.0))
    updates = replace(updates, l2_share=updates.l2_share.double())
    result = SignGuard(options=SignGuardOptions(coordinates=0.5)).aggregate(updates, view(model))
    verdict = result.verdicts[0]
    assert verdict.kept.tolist() == [True] * 16 + [False] * 4
    assert verdict.notes["unusual_norms"] == 2
    assert verdict.notes["unusual_signs"] == 2
    assert_close(flat(result.gradient), clipped_to_median(matrix)[:16].mean(0))
    drawn = sample_coordinates(model, 40, np.random.default_rng(0)).items.numpy().ravel() > 0
    shares = sign_shares(matrix, drawn)
    centre = shares[:18].mean(0)
    assert_close(verdict.scores.numpy(), np.linalg.norm(shares - centre, axis=1))


def test_sign_guard_sees_who_sends_every_row() -> None:
    shape = Shape(4, 19, 60, 4, 0, 0.1)
    honest = random_updates(shape)
    poison = from_dense(np.random.default_rng(0).normal(0, 0.3, (1, 240)), 60)
    updates = concat([honest, replace(poison, users=poison.users + 1000, l2_share=poison.l2_share.double())])
    verdict = SignGuard(options=SignGuardOptions(coordinates=1.0)).judge(updates, view(model_of(shape)))[1]
    assert not bool(verdict.kept[updates.users == 1000].any())


@pytest.mark.parametrize("f", [1, 2])
def test_nnm_and_the_median_stay_among_honest_mixtures_beside_huge_updates(f: int) -> None:
    shape = Shape(9, 9, 8, 3, 0, 0.7)
    honest = random_updates(shape)
    huge = from_dense(np.full((f, 24), 1e6), 8)
    updates = concat([honest, replace(huge, users=huge.users + 1000, l2_share=huge.l2_share.double())])
    rule = NearestNeighborMixing(Median(), MixingOptions(num_malicious_nodes=f))
    result = flat(rule.aggregate(updates, view(model_of(shape))).gradient)
    # An honest user's n − f nearest are all the honest ones, and the attackers are fewer than half.
    assert_close(result, dense(honest, 8).mean(0))
