"""What holds for every robust rule, whatever its formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_updates import (
    Shape,
    assert_close,
    dense,
    flat,
    from_dense,
    kept_the_same,
    model_of,
    random_updates,
    shapes,
    view,
    whole,
)

from protocol.updates import Updates, concat
from strategies.rule import Mean, Rule
from strategies.rules.bucketing import Bucketing, BucketingOptions
from strategies.rules.bulyan import Bulyan, BulyanOptions
from strategies.rules.centered_clipping import CenteredClipping
from strategies.rules.divide_and_conquer import DivideAndConquer, DivideAndConquerOptions
from strategies.rules.flame import Flame, FlameOptions
from strategies.rules.fools_gold import FoolsGold
from strategies.rules.geometric_median import GeometricMedian
from strategies.rules.hics import Hics, HicsOptions
from strategies.rules.krum import Krum, KrumOptions, MultiKrum
from strategies.rules.meamed import Meamed, MeamedOptions
from strategies.rules.median import Median
from strategies.rules.nearest_neighbor_mixing import MixingOptions, NearestNeighborMixing
from strategies.rules.norm_bound import NormBound, NormBoundOptions
from strategies.rules.per_item import PerItemKrum, PerItemMedian, PerItemTrimmedMean
from strategies.rules.sign_guard import SignGuard
from strategies.rules.support_bound import SupportBound, SupportBoundOptions
from strategies.rules.trimmed_mean import TrimmedMean, TrimmedMeanOptions
from strategies.rules.union import Union, UnionOptions
from strategies.server_model import ServerModel

RULES: dict[str, Rule] = {
    "mean": Mean(),
    "trimmed-mean": TrimmedMean(TrimmedMeanOptions(num_malicious_nodes=2)),
    "median": Median(),
    "krum": Krum(options=KrumOptions(num_malicious_nodes=2)),
    "multi-krum": MultiKrum(options=KrumOptions(num_malicious_nodes=2)),
    "bulyan": Bulyan(BulyanOptions(num_malicious_nodes=2)),
    "norm-bound": NormBound(options=NormBoundOptions(1.0)),
    "union": Union(options=UnionOptions(num_items=8)),
    "union+norm-bound+multi-krum": Union(
        NormBound(MultiKrum(options=KrumOptions(num_malicious_nodes=2)), NormBoundOptions(1.0)),
        UnionOptions(num_items=8),
    ),
    "per-item-trimmed-mean": PerItemTrimmedMean(TrimmedMeanOptions(num_malicious_nodes=1)),
    "per-item-median": PerItemMedian(),
    "per-item-krum": PerItemKrum(KrumOptions(num_malicious_nodes=1)),
    "support-bound": SupportBound(options=SupportBoundOptions(rows_per_example=0.05)),
    "geometric-median": GeometricMedian(),
    "centered-clipping": CenteredClipping(),
    "meamed": Meamed(MeamedOptions(num_malicious_nodes=2)),
    "nnm+median": NearestNeighborMixing(Median(), MixingOptions(num_malicious_nodes=2)),
    "bucketing+median": Bucketing(Median()),
    "dnc": DivideAndConquer(options=DivideAndConquerOptions(num_malicious_nodes=2)),
    "flame": Flame(options=FlameOptions(noise=0.0)),
    "fools-gold": FoolsGold(),
    "sign-guard": SignGuard(),
    "hics": Hics(options=HicsOptions(row_bound=0.5, bound=1.0, kept=1.0)),
}


# Of two users' rows each is as near to the other: Krum per item takes the first.
@pytest.mark.parametrize("name", sorted(set(RULES) - {"per-item-krum"}))
@given(shape=shapes(smallest=3), order=st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_users_does_not_matter(name: str, shape: Shape, order: st.DrawFn) -> None:
    updates, model = random_updates(shape), model_of(shape, weight_decay=0.01)
    positions = list(range(shape.n))
    order.shuffle(positions)  # type: ignore[attr-defined]
    result = RULES[name].aggregate(updates, view(model))
    shuffled = RULES[name].aggregate(updates.select(torch.tensor(positions)), view(model))
    if kept_the_same(result, shuffled):
        assert_close(whole(result.gradient, model), whole(shuffled.gradient, model))


@given(shape=shapes())
@settings(max_examples=40, deadline=None)
def test_without_assumed_attackers_nothing_is_lost(shape: Shape) -> None:
    updates, model = random_updates(shape), model_of(shape)
    matrix = dense(updates, shape.num_items)
    weights = updates.num_examples.numpy() / updates.num_examples.sum().item()
    plain = matrix.mean(0)
    for rule in (
        TrimmedMean(TrimmedMeanOptions(num_malicious_nodes=0)),
        TrimmedMean(TrimmedMeanOptions(beta=0.0)),
        Bulyan(BulyanOptions(num_malicious_nodes=0)),
        PerItemTrimmedMean(TrimmedMeanOptions(num_malicious_nodes=0)),
        # Every mixture is the mean of all.
        NearestNeighborMixing(Median(), MixingOptions(num_malicious_nodes=0)),
    ):
        assert_close(flat(rule.aggregate(updates, view(model)).gradient), plain)
    for wrapper in (
        MultiKrum(options=KrumOptions(num_malicious_nodes=0)),
        NormBound(options=NormBoundOptions(1e9)),
        SupportBound(options=SupportBoundOptions(rows_per_example=1000.0)),
        DivideAndConquer(options=DivideAndConquerOptions(num_malicious_nodes=0)),
        Bucketing(options=BucketingOptions(size=1)),
    ):
        assert_close(flat(wrapper.aggregate(updates, view(model)).gradient), weights @ matrix)


def attacked(shape: Shape, f: int) -> tuple[Updates, Updates]:
    """Honest updates, and the same with f others of size 1e6 on every row."""
    honest = random_updates(shape)
    generator = np.random.default_rng(shape.seed + 2)
    size = (f, shape.num_items * shape.dim)
    poison = from_dense(1e6 * generator.choice([-1.0, 1.0], size) * generator.uniform(0.5, 1, size), shape.num_items)
    shared = torch.full((f, shape.num_shared), 1e6, dtype=torch.float64)
    poison = Updates(
        poison.users + 1000,
        poison.num_examples,
        poison.row_splits,
        poison.items,
        poison.rows,
        shared,
        poison.l2_share.double(),
    )
    return honest, concat([honest, poison])


@given(shape=shapes(smallest=7), f=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_huge_updates_leave_coordinates_inside_the_honest_range(shape: Shape, f: int) -> None:
    honest, updates = attacked(shape, f)
    matrix, model = dense(honest, shape.num_items), model_of(shape)
    for rule in (
        TrimmedMean(TrimmedMeanOptions(num_malicious_nodes=f)),
        Median(),
        Bulyan(BulyanOptions(num_malicious_nodes=1)) if f == 1 else Median(),
    ):
        result = flat(rule.aggregate(updates, view(model)).gradient)
        assert (result >= matrix.min(0) - 1e-9).all()
        assert (result <= matrix.max(0) + 1e-9).all()


@given(shape=shapes(smallest=7), f=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_krum_stays_on_an_honest_update_and_multi_krum_drops_the_huge_ones(shape: Shape, f: int) -> None:
    honest, updates = attacked(shape, f)
    model, options = model_of(shape), KrumOptions(num_malicious_nodes=f)
    krum = Krum(options=options).aggregate(updates, view(model)).verdicts[0]
    assert int(krum.users[krum.kept]) in honest.users
    multi_krum = MultiKrum(options=options).aggregate(updates, view(model)).verdicts[0]
    assert bool((multi_krum.users[~multi_krum.kept] >= 1000).all())


@given(shape=shapes(smallest=7), f=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_per_item_rules_stay_inside_the_honest_range_where_enough_users_touched_the_item(shape: Shape, f: int) -> None:
    honest, updates = attacked(shape, f)
    model = model_of(shape)
    for rule, needed in (
        (PerItemTrimmedMean(TrimmedMeanOptions(num_malicious_nodes=f)), f + 1),
        (PerItemMedian(), f + 1),
        (PerItemKrum(KrumOptions(num_malicious_nodes=f)), f + 3),
    ):
        result = rule.aggregate(updates, view(model)).gradient
        for item in range(shape.num_items):
            rows = honest.rows[honest.items == item]
            if len(rows) >= needed:
                scaled = result.items[item] * len(updates) / (len(rows) + f)
                assert bool((scaled >= rows.min(0).values - 1e-9).all())
                assert bool((scaled <= rows.max(0).values + 1e-9).all())


@given(shape=shapes(smallest=5), weight_decay=st.sampled_from([0.01, 0.5]))
@settings(max_examples=30, deadline=None)
def test_the_l2_term_at_the_server_equals_l2_in_every_clients_loss(shape: Shape, weight_decay: float) -> None:
    shape = Shape(shape.seed, shape.n, shape.num_items, shape.dim, 0, shape.density)
    sparse, model = random_updates(shape), model_of(shape, weight_decay)
    matrix = dense(sparse, shape.num_items, model.common)
    with_term = replace(from_dense(matrix, shape.num_items, sparse.num_examples.numpy()), users=sparse.users)
    without = model_of(shape, weight_decay=0.0)
    for rule in (
        Mean(),
        MultiKrum(options=KrumOptions(num_malicious_nodes=1)),
        Krum(options=KrumOptions(num_malicious_nodes=1)),
        TrimmedMean(TrimmedMeanOptions(num_malicious_nodes=1)),
        Median(),
        Bulyan(BulyanOptions(num_malicious_nodes=1)),
        NormBound(options=NormBoundOptions(1.0)),
        NormBound(MultiKrum(options=KrumOptions(num_malicious_nodes=1)), NormBoundOptions(1.0)),
        GeometricMedian(),
        CenteredClipping(),
        Meamed(MeamedOptions(num_malicious_nodes=1)),
        NearestNeighborMixing(Median(), MixingOptions(num_malicious_nodes=1)),
        Bucketing(CenteredClipping()),
        DivideAndConquer(options=DivideAndConquerOptions(num_malicious_nodes=1)),
        Flame(options=FlameOptions(noise=0.0)),
        FoolsGold(),
    ):
        at_server = rule.aggregate(sparse, view(model))
        in_loss = rule.aggregate(with_term, view(without))
        if kept_the_same(at_server, in_loss):
            ours, theirs = whole(at_server.gradient, model), whole(in_loss.gradient, without)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [1e15, 1e25, 1e38])
def test_attackers_gain_nothing_by_values_that_overflow(size: float) -> None:
    shape = Shape(seed=7, n=20, num_items=10, dim=4, num_shared=0, density=0.8)
    honest = random_updates(shape)
    items = model_of(shape).items.float()
    model = ServerModel.start(items, items.new_zeros(0), learning_rate=2e-3, weight_decay=0.0)
    joined = concat([honest, from_dense(np.full((2, 40), size), 10)])
    single = replace(joined, rows=joined.rows.float(), shared=joined.shared.float(), l2_share=joined.l2_share.float())
    krum, trimmed = KrumOptions(num_malicious_nodes=2), TrimmedMeanOptions(num_malicious_nodes=2)
    low, high = honest.rows.min().item(), honest.rows.max().item()
    for rule in (
        Krum(options=krum),
        MultiKrum(options=krum),
        Bulyan(BulyanOptions(num_malicious_nodes=2)),
        Bulyan(BulyanOptions(num_malicious_nodes=2, selection_rule="krum")),
        TrimmedMean(trimmed),
        Median(),
        PerItemTrimmedMean(trimmed),
        PerItemMedian(),
        PerItemKrum(krum),
        NormBound(options=NormBoundOptions(1.0)),
        GeometricMedian(),
        CenteredClipping(),
        Meamed(MeamedOptions(num_malicious_nodes=2)),
        NearestNeighborMixing(Median(), MixingOptions(num_malicious_nodes=2)),
        DivideAndConquer(options=DivideAndConquerOptions(num_malicious_nodes=2)),
        Flame(options=FlameOptions(noise=0.0)),
        SignGuard(),
    ):
        result = flat(rule.aggregate(single, view(model)).gradient)
        assert (low - 1e-6 <= result).all(), rule.name
        assert (result <= high + 1e-6).all(), rule.name


@pytest.mark.parametrize("name", RULES)
def test_a_single_update_passes_every_rule(name: str) -> None:
    shape = Shape(seed=5, n=1, num_items=6, dim=3, num_shared=2, density=0.5)
    updates, model = random_updates(shape, scale=0.01), model_of(shape)
    result = RULES[name].aggregate(updates, view(model)).gradient
    assert_close(flat(result), dense(updates, shape.num_items)[0])


@pytest.mark.parametrize("name", RULES)
def test_rules_work_for_a_model_without_item_table(name: str) -> None:
    shape = Shape(seed=6, n=9, num_items=0, dim=1, num_shared=40, density=1.0)
    result = RULES[name].aggregate(random_updates(shape), view(model_of(shape))).gradient
    assert result.shared.shape == (40,)
    assert bool(torch.isfinite(result.shared).all())
