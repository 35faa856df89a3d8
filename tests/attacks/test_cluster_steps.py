"""ClusterAttack's parts: Algorithm 1 on scripted losses, k-means beside scikit-learn's, the gradient of Eq. 2."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from attacks.recommenders.adaptive_clusters import AdaptiveClusters
from attacks.recommenders.cluster import bounded, cluster_gradient
from attacks.recommenders.kmeans import kmeans


def algorithm_1(
    losses: list[float], clusters: int, threshold: float, growth: float, decay: float, fewest: int, most: int
) -> list[int]:
    """K after each round, from the paper's Algorithm 1 line by line, with the reference's threshold growth."""
    history = []
    t, e, last, inc, dec = 0, 0.0, None, 0, 0
    for loss in losses:
        t += 1
        e = decay * e + (1 - decay) * loss
        corrected = e / (1 - decay**t)
        if last is not None:
            if corrected > last:
                inc += 1
            else:
                dec += 1
        last = corrected
        changed = True
        if inc - dec >= threshold:
            clusters = min(round(clusters + math.sqrt(most - clusters)), most)
        elif dec - inc >= threshold:
            clusters = max(round(clusters - math.sqrt(clusters - fewest)), fewest)
        else:
            changed = False
        if changed:
            t, e, last, inc, dec = 0, 0.0, None, 0, 0
            threshold *= 1 + growth
        history.append(clusters)
    return history


def observed(state: AdaptiveClusters, losses: list[float]) -> list[int]:
    history = []
    for loss in losses:
        state = state.observe(loss)
        history.append(state.clusters)
    return history


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.floats(-1, 1.2), min_size=1, max_size=120),
    clusters=st.integers(1, 12),
    threshold=st.sampled_from([1.0, 2.0, 3.5]),
    growth=st.sampled_from([0.0, 0.5, 1.0]),
    decay=st.sampled_from([0.5, 0.9, 0.999]),
)
def test_the_number_of_clusters_follows_algorithm_1(
    steps: list[float], clusters: int, threshold: float, growth: float, decay: float
) -> None:
    losses = np.abs(np.cumsum(steps)).tolist()
    state = AdaptiveClusters(clusters, threshold, growth, decay, fewest=1, most=12)
    assert observed(state, losses) == algorithm_1(losses, clusters, threshold, growth, decay, 1, 12)


def test_rising_losses_raise_k_by_the_root_of_what_is_left() -> None:
    """T = 3, fixed: the first loss only starts the comparison, so that every fourth round changes K."""
    history = observed(AdaptiveClusters(2, 3.0, growth=0.0), [float(n) for n in range(1, 17)])
    assert history == [2, 2, 2, 9, 9, 9, 9, 15, 15, 15, 15, 21, 21, 21, 21, 26]


def test_falling_losses_lower_k_down_to_the_fewest() -> None:
    history = observed(AdaptiveClusters(9, 2.0, growth=0.0, fewest=3), [1 / n for n in range(1, 31)])
    assert history[:9] == [9, 9, 7, 7, 7, 5, 5, 5, 4]
    assert history[-1] == 3


def test_the_threshold_grows_with_each_change() -> None:
    history = observed(AdaptiveClusters(2, 2.0, growth=1.0), [float(n) for n in range(1, 10)])
    assert history == [2, 2, 9, 9, 9, 9, 9, 15, 15]


def test_an_unchanged_loss_counts_as_a_fall() -> None:
    assert observed(AdaptiveClusters(5, 2.0, decay=0.5), [0.0, 0.0, 0.0]) == [5, 5, 3]


@pytest.mark.parametrize("clusters", [2, 5])
def test_kmeans_ends_where_scikit_learn_does(clusters: int) -> None:
    generator = np.random.default_rng(clusters)
    centres = generator.normal(0, 4, (clusters, 3))
    points = (centres[generator.integers(clusters, size=200)] + generator.normal(size=(200, 3))).astype(np.float32)
    first = np.random.default_rng(9).choice(200, clusters, replace=False)
    assignment, centroids = kmeans(torch.from_numpy(points), clusters, np.random.default_rng(9))
    oracle = KMeans(clusters, init=points[first], n_init=1, tol=0.0, max_iter=500).fit(points)
    np.testing.assert_array_equal(assignment, oracle.labels_)
    np.testing.assert_allclose(centroids, oracle.cluster_centers_, atol=1e-4)


@pytest.mark.parametrize(("count", "clusters"), [(600, 2), (600, 7), (300, 12)])
def test_kmeans_skips_only_points_that_stay(count: int, clusters: int) -> None:
    """Points without any structure, which change clusters for many rounds, beside Lloyd's algorithm as told."""
    points = np.random.default_rng(count).normal(size=(count, 6))
    centroids = points[np.random.default_rng(4).choice(count, clusters, replace=False)]
    iterations, shift = 0, np.inf
    while shift >= 1e-4:
        nearest = ((points[:, None] - centroids) ** 2).sum(2).argmin(1)
        moved = np.stack(
            [points[nearest == k].mean(0) if (nearest == k).any() else centroids[k] for k in range(clusters)]
        )
        iterations, shift, centroids = iterations + 1, float(np.linalg.norm(moved - centroids)), moved
    assert iterations > 3
    assignment, found = kmeans(torch.from_numpy(points), clusters, np.random.default_rng(4))
    np.testing.assert_array_equal(assignment, ((points[:, None] - centroids) ** 2).sum(2).argmin(1))
    np.testing.assert_allclose(found, centroids, atol=1e-9)


def test_kmeans_starts_from_distinct_points_and_never_has_more_clusters_than_points() -> None:
    points = torch.tensor([[0.0], [1.0], [5.0]])
    assignment, centroids = kmeans(points, 8, np.random.default_rng(0))
    assert sorted(centroids.flatten().tolist()) == [0.0, 1.0, 5.0]
    assert sorted(assignment.tolist()) == [0, 1, 2]


def test_kmeans_of_equal_points_is_finite() -> None:
    assignment, centroids = kmeans(torch.ones(6, 2), 3, np.random.default_rng(0))
    assert torch.equal(centroids[assignment], torch.ones(6, 2))


def test_the_gradient_is_that_of_eq_2_with_centroids_held_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(20, 4, dtype=torch.float64, generator=generator).requires_grad_()
    centroids = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    assignment = torch.randint(3, (20,), generator=generator)
    slow = sum((table[i] - centroids[assignment[i]]).square().sum() for i in range(20)) / 3
    assert isinstance(slow, torch.Tensor)
    (expected,) = torch.autograd.grad(slow, table)
    loss, gradient = cluster_gradient(table.detach(), assignment, centroids)
    # As Eq. 2 is printed: a plain sum.
    summed, steeper = cluster_gradient(table.detach(), assignment, centroids, "sum")
    assert summed == pytest.approx(len(centroids) * loss)
    torch.testing.assert_close(steeper, len(centroids) * gradient)
    assert loss == pytest.approx(float(slow.detach()))
    torch.testing.assert_close(gradient, expected)


def test_rescaling_sets_the_length_and_keeps_the_direction() -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    rows = bounded(gradient, torch.tensor([1.0, 1.0, 1.0]), "rescale")
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]))


def test_clipping_only_shortens() -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    rows = bounded(gradient, torch.tensor([1.0, 1.0, 1.0]), "clip")
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
