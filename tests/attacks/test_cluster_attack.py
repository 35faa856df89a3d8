"""ClusterAttack as a whole: what it uploads, within which bounds, and what it keeps between rounds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from attacked_world import PLAIN, Side, dense, population, random_model, random_updates, real_view, scripted_view

from attacks.recommenders.cluster import (
    ClusterAttack,
    ClusterAttackWithContrast,
    ClusterOptions,
    NormBounds,
    cluster_gradient,
    honest_norms,
)
from attacks.recommenders.kmeans import kmeans
from attacks.view import AttackerView
from protocol.requests import GlobalModel
from settings.options import OptionError, option_name, read

CONTROLLED = [2, 5, 11, 30, 31, 48]
SELECTED = [5, 30, 48]


def slow_bounds(view: AttackerView) -> NormBounds:
    """μ and s of ‖g_i + λe_i‖ over all pairs of a controlled user and an item, one by one."""
    table = view.model.items.numpy().astype(np.float64)
    rows = dense(view.train(view.controlled), len(table))
    norms = [
        np.linalg.norm(row + view.request.loss.weight_decay * e)
        for user in rows
        for row, e in zip(user, table, strict=True)
    ]
    return NormBounds(float(np.mean(norms)), float(np.std(norms)))


def cosines(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(first, second, dim=-1)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-5, 0.3])
def test_honest_norms_count_every_pair_and_the_l2_term(weight_decay: float) -> None:
    updates = random_updates(list(range(8)), 12, 5, 0, seed=1)
    table = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    view = scripted_view(updates, [0], 12, weight_decay=weight_decay, model=GlobalModel(table, torch.empty(0)))
    found = honest_norms(updates, table, weight_decay)
    expected = slow_bounds(view)
    assert found.mean == pytest.approx(expected.mean, rel=1e-5)
    assert found.deviation == pytest.approx(expected.deviation, rel=1e-5)


def test_rescaled_rows_have_lengths_from_the_mean_to_three_deviations_more() -> None:
    attack = ClusterAttack()
    view = real_view(attack, CONTROLLED, SELECTED)
    bounds = slow_bounds(view)
    poisoned = attack.poison(view)
    assert poisoned.row_counts.tolist() == [population().num_items] * 3
    lengths = poisoned.rows.norm(dim=1).numpy()
    assert lengths.min() >= bounds.mean * (1 - 1e-5)
    assert lengths.max() <= (bounds.mean + 3 * bounds.deviation) * (1 + 1e-5)
    place = (lengths - bounds.mean) / bounds.deviation / 3
    # 180 uniform draws: five standard errors of their mean, and both ends of the range are met.
    assert place.mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * len(place)))
    assert place.min() < 0.1
    assert place.max() > 0.9


def test_every_row_points_away_from_its_centroid() -> None:
    """The server steps against the gradient, so that a row moves towards its centroid."""
    attack = ClusterAttack(ClusterOptions(clusters=4))
    view = real_view(attack, CONTROLLED, SELECTED)
    poisoned = attack.poison(view)
    # The attack's generator again, after what the sample of six users leaves of it: they are all taken, without a draw.
    again = real_view(attack, CONTROLLED, SELECTED).generator
    assignment, centroids = kmeans(view.model.items, 4, again)
    _, gradient = cluster_gradient(view.model.items, assignment, centroids)
    rows = torch.from_numpy(dense(poisoned, population().num_items))
    torch.testing.assert_close(cosines(rows, gradient.to(rows.dtype)), torch.ones(rows.shape[:2], dtype=rows.dtype))


def test_clipping_never_lengthens_and_reaches_the_bound_elsewhere() -> None:
    options = ClusterOptions(bound="clip")
    # A table whose items lie so close together that some gradients are shorter than the bound, and some longer.
    model = random_model()
    scale = torch.linspace(1e-3, 1.0, len(model.items)).unsqueeze(1)
    model = GlobalModel(model.items * scale, model.shared)
    attack = ClusterAttack(options)
    view = real_view(attack, CONTROLLED, SELECTED, model=model)
    bounds = slow_bounds(view)
    assignment, centroids = kmeans(model.items, 2, real_view(attack, CONTROLLED, SELECTED).generator)
    _, gradient = cluster_gradient(model.items, assignment, centroids)
    free = gradient.norm(dim=1).numpy()
    lengths = np.linalg.norm(dense(attack.poison(view), len(model.items)), axis=2)
    assert (lengths <= free * (1 + 1e-5)).all()
    assert (lengths <= (bounds.mean + 3 * bounds.deviation) * (1 + 1e-5)).all()
    untouched = free < bounds.mean
    assert untouched.any()
    assert (~untouched).any()
    np.testing.assert_allclose(lengths[:, untouched], np.broadcast_to(free[untouched], (3, untouched.sum())), rtol=1e-4)


@pytest.mark.parametrize("kind", [ClusterAttack, ClusterAttackWithContrast])
@pytest.mark.parametrize("order", ["before", "after"])
def test_touched_rows_are_those_of_the_honest_update(kind: type[ClusterAttack], order: str) -> None:
    attack = kind(ClusterOptions(rows="touched", contrastive_order=order))  # type: ignore[arg-type]
    view = real_view(attack, CONTROLLED, SELECTED)
    poisoned = attack.poison(view)
    assert torch.equal(poisoned.items, view.honest.items)
    assert torch.equal(poisoned.row_splits, view.honest.row_splits)
    assert not torch.equal(poisoned.rows, view.honest.rows)


def test_shared_parameters_and_weights_stay_honest() -> None:
    updates = random_updates(list(range(10)), 12, 5, 7, seed=1)
    model = GlobalModel(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(7))
    for options in (ClusterOptions(), ClusterOptions(rows="touched")):
        view = scripted_view(updates, [2, 3, 9], 12, model=model)
        poisoned = ClusterAttack(options).poison(view)
        assert torch.equal(poisoned.shared, view.honest.shared)
        assert torch.equal(poisoned.num_examples, view.honest.num_examples)
        assert torch.equal(poisoned.users, view.honest.users)


def contrast_of(side: Side, view: AttackerView) -> np.ndarray:
    """α·∂L_CL/∂E: what the task adds to the honest gradient."""
    train = side.training(view.model, view.request)
    with_task = train(view.selected, loss=replace(view.request.loss, contrastive_weight=1.0))
    without = train(view.selected, loss=replace(view.request.loss, contrastive_weight=0.0))
    size = len(view.model.items)
    return dense(with_task, size) - dense(without, size)


def test_the_contrastive_gradient_is_added_after_the_bound() -> None:
    """Then the upload is plain ClusterAttack's, which draws the same numbers, plus the task's gradient."""
    side = Side(CONTROLLED)
    plain, both = ClusterAttack(), ClusterAttackWithContrast(ClusterOptions(contrastive_order="after"))
    view = real_view(plain, CONTROLLED, SELECTED, side=side)
    alone = dense(plain.poison(view), population().num_items)
    together = dense(both.poison(real_view(both, CONTROLLED, SELECTED, side=side)), population().num_items)
    np.testing.assert_allclose(together - alone, contrast_of(side, view), atol=1e-6)


def test_the_contrastive_gradient_is_added_before_the_bound() -> None:
    """Then the sum has the direction of both gradients, and the length that the bound gives."""
    side = Side(CONTROLLED)
    attack = ClusterAttackWithContrast()
    view = real_view(attack, CONTROLLED, SELECTED, side=side)
    together = torch.from_numpy(dense(attack.poison(view), population().num_items))
    again = real_view(attack, CONTROLLED, SELECTED, side=side).generator
    _, gradient = cluster_gradient(view.model.items, *kmeans(view.model.items, 2, again))
    expected = gradient.to(torch.float64) + torch.from_numpy(contrast_of(side, view))
    torch.testing.assert_close(cosines(together, expected), torch.ones(together.shape[:2], dtype=torch.float64))
    bounds = slow_bounds(view)
    lengths = together.norm(dim=2)
    assert lengths.min() >= bounds.mean * (1 - 1e-5)
    assert lengths.max() <= (bounds.mean + 3 * bounds.deviation) * (1 + 1e-5)


def test_an_interrupted_attack_goes_on_as_if_nothing_had_happened() -> None:
    options = ClusterOptions(threshold=2.0, decay=0.5)
    whole, first = ClusterAttack(options), ClusterAttack(options)
    models = [random_model(seed) for seed in range(8)]
    side = Side(CONTROLLED)
    uploads = []
    for now, model in enumerate(models, 1):
        uploads.append(whole.poison(real_view(whole, CONTROLLED, SELECTED, server_round=now, model=model, side=side)))
    for now, model in enumerate(models[:5], 1):
        first.poison(real_view(first, CONTROLLED, SELECTED, server_round=now, model=model, side=side))
    second = ClusterAttack(options)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    for now, model in enumerate(models[5:], 6):
        view = real_view(second, CONTROLLED, SELECTED, server_round=now, model=model, side=side)
        assert torch.equal(second.poison(view).rows, uploads[now - 1].rows)
    assert second.state() == whole.state()
    assert {type(value) for value in whole.state().values()} <= {int, float}


def test_k_adapts_in_rounds_with_an_attack_alone() -> None:
    fixed, adaptive = (ClusterAttack(ClusterOptions(threshold=1.0, adaptive=flag)) for flag in (False, True))
    for now in range(1, 7):
        for attack in (fixed, adaptive):
            attack.poison(real_view(attack, CONTROLLED, SELECTED, server_round=now, model=random_model(now)))
    assert fixed.state()["clusters"] == 2
    assert adaptive.state()["clusters"] != 2


def test_two_attackers_draw_different_numbers() -> None:
    others = [3, 6, 12, 33]
    attack = ClusterAttack()
    ours, theirs = real_view(attack, CONTROLLED, SELECTED), real_view(attack, others, [6])
    assert ours.generator.random() != theirs.generator.random()


def test_an_attacker_draws_different_numbers_in_each_round_and_the_same_again() -> None:
    attack = ClusterAttack()
    first, again, second = (real_view(attack, CONTROLLED, SELECTED, server_round=now) for now in (1, 1, 2))
    number = first.generator.random()
    assert number == again.generator.random()
    assert number != second.generator.random()


def test_the_model_it_was_sent_is_left_as_it_is() -> None:
    model = random_model()
    before = model.items.clone()
    attack = ClusterAttackWithContrast()
    attack.poison(real_view(attack, CONTROLLED, SELECTED, model=model, loss=replace(PLAIN, dropout=0.2)))
    assert torch.equal(model.items, before)


@pytest.mark.parametrize(
    "wrong",
    [{"clusters": 0}, {"clusters": 60}, {"threshold": 0.0}, {"threshold_growth": -0.1}, {"decay": 1.0}],
)
def test_a_wrong_option_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="cluster-" + next(iter(wrong)).replace("_", "-")):
        read(ClusterOptions, {option_name(name, "cluster"): value for name, value in wrong.items()}, "cluster")
