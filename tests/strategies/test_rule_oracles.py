"""Each rule against a slow, obvious one on dense matrices, written from its paper."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_updates import Floats, Shape, assert_close, dense, flat, model_of, random_updates, shapes, view, whole

from strategies.rule import Mean
from strategies.rules.bulyan import Bulyan, BulyanOptions
from strategies.rules.krum import Krum, KrumOptions, MultiKrum, squared_distances
from strategies.rules.median import Median
from strategies.rules.norm_bound import NormBound, NormBoundOptions
from strategies.rules.per_item import PerItemKrum, PerItemMedian, PerItemTrimmedMean
from strategies.rules.trimmed_mean import TrimmedMean, TrimmedMeanOptions
from strategies.sparse.l2_share import with_whole_l2

assumed = st.integers(0, 5)
each_rule = settings(max_examples=40, deadline=None)


def krum_scores_of(matrix: Floats, f: int) -> Floats:
    """Blanchard et al. 2017, §4: the sum over the n − f − 2 closest others of the squared distance."""
    n = len(matrix)
    scores = []
    for i in range(n):
        distances = sorted(float(np.sum((matrix[i] - matrix[j]) ** 2)) for j in range(n) if j != i)
        scores.append(sum(distances[: min(max(n - f - 2, 1), n - 1)]))
    return np.array(scores)


def krum_f(n: int, f: int) -> int:
    return max(min(f, (n - 3) // 2), 0)


@given(shape=shapes())
@each_rule
def test_mean_is_weighted_by_examples(shape: Shape) -> None:
    updates, model = random_updates(shape), model_of(shape)
    weights = updates.num_examples.numpy() / updates.num_examples.sum().item()
    result = Mean().aggregate(updates, view(model)).gradient
    assert_close(flat(result), weights @ dense(updates, shape.num_items))


@given(shape=shapes(), f=assumed)
@each_rule
def test_trimmed_mean_drops_f_values_at_both_ends_of_every_coordinate(shape: Shape, f: int) -> None:
    updates, model = random_updates(shape), model_of(shape)
    cut = min(f, (shape.n - 1) // 2)
    ordered = np.sort(dense(updates, shape.num_items), axis=0)
    result = TrimmedMean(TrimmedMeanOptions(num_malicious_nodes=f)).aggregate(updates, view(model)).gradient
    assert_close(flat(result), ordered[cut : shape.n - cut].mean(0))


@given(shape=shapes())
@each_rule
def test_median_is_the_median_of_every_coordinate(shape: Shape) -> None:
    updates, model = random_updates(shape), model_of(shape)
    result = Median().aggregate(updates, view(model)).gradient
    assert_close(flat(result), np.median(dense(updates, shape.num_items), axis=0))


@given(shape=shapes())
@each_rule
def test_distances_are_those_of_whole_updates(shape: Shape) -> None:
    matrix = dense(random_updates(shape), shape.num_items)
    expected = np.square(matrix[:, None] - matrix[None]).sum(2)
    assert_close(squared_distances(random_updates(shape)).numpy(), expected)


@given(shape=shapes(), f=assumed)
@each_rule
def test_krum_keeps_the_update_with_the_smallest_score(shape: Shape, f: int) -> None:
    updates, model = random_updates(shape), model_of(shape)
    matrix = dense(updates, shape.num_items)
    scores = krum_scores_of(matrix, krum_f(shape.n, f))
    result = Krum(options=KrumOptions(num_malicious_nodes=f)).aggregate(updates, view(model))
    assert_close(result.verdicts[0].scores.numpy(), scores)
    kept = result.verdicts[0].kept.numpy()
    assert kept.sum() == 1
    assert scores[kept][0] <= scores.min() * (1 + 1e-9)
    assert_close(flat(result.gradient), matrix[kept][0])


@given(shape=shapes(), f=assumed)
@each_rule
def test_multi_krum_drops_the_f_largest_scores_and_averages_the_rest(shape: Shape, f: int) -> None:
    updates, model = random_updates(shape), model_of(shape)
    matrix, f = dense(updates, shape.num_items), krum_f(shape.n, f)
    scores = krum_scores_of(matrix, f)
    result = MultiKrum(options=KrumOptions(num_malicious_nodes=f)).aggregate(updates, view(model))
    kept = result.verdicts[0].kept.numpy()
    assert (~kept).sum() == f
    if f:
        assert scores[kept].max() <= scores[~kept].min() * (1 + 1e-9)
    weights = updates.num_examples.numpy()[kept]
    assert_close(flat(result.gradient), weights @ matrix[kept] / weights.sum())


def nearest_mean(selected: Floats, count: int) -> Floats:
    """El Mhamdi et al. 2018, Eq. (4): per coordinate the mean of the values nearest to the median."""
    columns = []
    for column in np.sort(selected, axis=0).T:  # of equally near values the lower one
        nearest = np.argsort(np.abs(column - np.median(column)), kind="stable")[:count]
        columns.append(column[nearest].mean())
    return np.array(columns)


@given(shape=shapes(), f=assumed)
@each_rule
def test_bulyan_with_krum_repeated_is_the_papers(shape: Shape, f: int) -> None:
    updates, model = random_updates(shape), model_of(shape)
    matrix = dense(updates, shape.num_items)
    f = max(min(f, (shape.n - 3) // 4), 0)
    left: list[int] = list(range(shape.n))
    selected: list[int] = []
    while len(selected) < shape.n - 2 * f:
        selected.append(left.pop(int(np.argmin(krum_scores_of(matrix[left], f)))))
    options = BulyanOptions(num_malicious_nodes=f, selection_rule="krum")
    result = Bulyan(options).aggregate(updates, view(model))
    kept = result.verdicts[0].kept.numpy().nonzero()[0]
    if sorted(selected) != kept.tolist():
        # The last two of a set are equally far from each other: a tie that either may win.
        assert len(set(selected) ^ set(kept)) == 2
        selected = kept.tolist()
    expected = nearest_mean(matrix[sorted(selected)], shape.n - 4 * f)
    assert_close(flat(result.gradient), expected)


@given(shape=shapes(), bound=st.sampled_from([0.05, 1.0, 100.0]), weight_decay=st.sampled_from([0.0, 0.5]))
@each_rule
def test_norm_bound_shrinks_whole_gradients_the_l2_term_included(
    shape: Shape, bound: float, weight_decay: float
) -> None:
    updates, model = random_updates(shape), model_of(shape, weight_decay)
    matrix = dense(updates, shape.num_items, model.common)
    norms = np.sqrt(np.square(matrix).sum(1))
    factors = np.minimum(1, bound / np.maximum(norms, 1e-300))
    weights = updates.num_examples.numpy() / updates.num_examples.sum().item()
    result = NormBound(options=NormBoundOptions(bound)).aggregate(updates, view(model))
    assert_close(result.verdicts[0].scores.numpy(), norms)
    assert_close(whole(result.gradient, model), (weights * factors) @ matrix)


def item_by_item(shape: Shape, f: int, centre: str) -> Floats:
    """Each item's rows among its t touching users, times t/n; the shared parameters among all users."""

    def trimmed(rows: Floats, trim: int) -> Floats:
        cut = min(trim, (len(rows) - 1) // 2)
        result: Floats = np.sort(rows, axis=0)[cut : len(rows) - cut].mean(0)
        return result

    def robust(rows: Floats) -> Floats:
        return trimmed(rows, f) if centre == "trimmed" else np.median(rows, axis=0)

    updates = random_updates(shape)
    matrix = dense(updates, shape.num_items)
    tables = matrix[:, : shape.num_items * shape.dim].reshape(shape.n, shape.num_items, shape.dim)
    result = np.zeros((shape.num_items, shape.dim))
    for item in range(shape.num_items):
        touching = np.any(tables[:, item] != 0, axis=1)
        if touching.any():
            result[item] = robust(tables[touching, item]) * touching.sum() / shape.n
    return np.concatenate([result.ravel(), robust(matrix[:, shape.num_items * shape.dim :])])


@given(shape=shapes(), f=assumed)
@each_rule
def test_per_item_trimmed_mean_judges_each_item_among_its_users(shape: Shape, f: int) -> None:
    rule = PerItemTrimmedMean(TrimmedMeanOptions(num_malicious_nodes=f))
    result = rule.aggregate(random_updates(shape), view(model_of(shape))).gradient
    assert_close(flat(result), item_by_item(shape, f, "trimmed"))


@given(shape=shapes())
@each_rule
def test_per_item_median_judges_each_item_among_its_users(shape: Shape) -> None:
    result = PerItemMedian().aggregate(random_updates(shape), view(model_of(shape))).gradient
    assert_close(flat(result), item_by_item(shape, 0, "median"))


@given(shape=shapes(), f=assumed)
@each_rule
def test_per_item_krum_takes_one_users_row(shape: Shape, f: int) -> None:
    updates = random_updates(shape)
    rule = PerItemKrum(KrumOptions(num_malicious_nodes=f))
    # As where there are so many shared parameters that other rules take a few at a time.
    with patch("strategies.sparse.order_statistics.CELLS", 1):
        result = rule.aggregate(updates, view(model_of(shape))).gradient
    for item in range(shape.num_items):
        rows = updates.rows[updates.items == item].numpy()
        if not len(rows):
            assert not result.items[item].any()
            continue
        scores = krum_scores_of(rows, krum_f(len(rows), f))
        # Of equally good rows (two users touched the item) any one is right.
        best = rows[scores <= scores.min() * (1 + 1e-9)] * len(rows) / shape.n
        assert np.abs(best - result.items[item].numpy()).max(1).min() < 1e-9
    # Of the shared parameters too: one user's, all of them.
    shared = updates.shared.numpy()
    scores = krum_scores_of(shared, krum_f(shape.n, f))
    best = shared[scores <= scores.min() * (1 + 1e-9)]
    assert np.abs(best - result.shared.numpy()).max(1, initial=0).min() < 1e-9


@given(shape=shapes(), shares=st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=14, max_size=14))
@each_rule
def test_unequal_shares_of_the_l2_term_are_part_of_what_is_judged(shape: Shape, shares: list[float]) -> None:
    model = model_of(shape, weight_decay=0.5)
    updates = random_updates(shape).scale(torch.tensor(shares[: shape.n], dtype=torch.float64))
    matrix = dense(updates, shape.num_items, model.common)
    expected = np.square(matrix[:, None] - matrix[None]).sum(2)
    assert_close(squared_distances(updates, model.common).numpy(), expected)
    explicit = with_whole_l2(updates, model.common)
    assert bool((explicit.l2_share == 1).all())
    assert_close(dense(explicit, shape.num_items, model.common), matrix)
    result = Median().aggregate(updates, view(model)).gradient
    assert_close(whole(result, model), np.median(matrix, axis=0))
