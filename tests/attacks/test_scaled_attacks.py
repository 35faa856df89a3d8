"""Min-Max, Min-Sum, IPM, sign flip, mimic, line searches, and what malicious users claim: against dense definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from attacked_world import PLAIN, Side, dense, random_updates, real_view, scripted_view

from attacks.attack import Attack
from attacks.claimed_examples import claiming
from attacks.recommenders.cluster import ClusterAttack, ClusterOptions, dense_rows
from attacks.recommenders.uniform_cluster import UniformClusterAttack, preview_of, rows_of
from attacks.updates.distance_bounded import DistanceBoundedOptions, MinMax, MinSum
from attacks.updates.inner_product_manipulation import InnerProductManipulation, InnerProductOptions
from attacks.updates.lie import Lie, LieOptions
from attacks.updates.line_search import ASSUMED_RULES, sampled_matrix
from attacks.updates.mimic import Mimic
from attacks.updates.sign_flip import SignFlip, SignFlipOptions
from attacks.view import AttackerView
from protocol.updates import Updates

ITEMS, DIM, SHARED = 9, 3, 4
USERS = list(range(40, 70))


def honest(users: list[int] = USERS) -> Updates:
    return random_updates(users, ITEMS, DIM, SHARED, seed=3)


def flat(updates: Updates) -> np.ndarray:
    """(n, I·d + p) float64, zeros included."""
    return np.concatenate([dense(updates, ITEMS).reshape(len(updates), -1), updates.shared.numpy()], 1)


def squared(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.square(others - one).sum(-1)


@pytest.mark.parametrize("perturbation", ["std", "unit", "sign"])
def test_min_max_goes_as_far_as_the_two_farthest_honest_updates(perturbation: str) -> None:
    updates = honest()
    matrix = flat(updates)
    sent = flat(MinMax(DistanceBoundedOptions(perturbation)).poison(scripted_view(updates, USERS[:2], ITEMS)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(sent[0], sent[1])
    farthest = max(squared(row, matrix).max() for row in matrix)
    assert squared(sent[0], matrix).max() == pytest.approx(farthest, rel=1e-5)
    beyond = sent[0] + 1e-2 * (sent[0] - matrix.mean(0))
    assert squared(beyond, matrix).max() > farthest


@pytest.mark.parametrize("perturbation", ["std", "unit", "sign"])
def test_min_sum_is_as_far_from_all_as_the_farthest_honest_update(perturbation: str) -> None:
    updates = honest()
    matrix = flat(updates)
    sent = flat(MinSum(DistanceBoundedOptions(perturbation)).poison(scripted_view(updates, USERS[:2], ITEMS)))[0]  # type: ignore[arg-type]
    farthest = max(squared(row, matrix).sum() for row in matrix)
    assert squared(sent, matrix).sum() == pytest.approx(farthest, rel=1e-5)
    mean, deviation = matrix.mean(0), matrix.std(0)
    towards = {"std": -deviation, "unit": -mean, "sign": -np.sign(mean)}[perturbation]
    cosine = (sent - mean) @ towards / np.linalg.norm(sent - mean) / np.linalg.norm(towards)
    assert cosine == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("attack", [MinMax(), MinSum()])
def test_a_single_user_has_nothing_to_hide_among(attack: Attack) -> None:
    updates = honest(USERS[:1])
    np.testing.assert_allclose(flat(attack.poison(scripted_view(updates, USERS[:1], ITEMS))), flat(updates), atol=1e-6)


def test_ipm_uploads_the_mean_turned_round() -> None:
    updates = honest()
    attack = InnerProductManipulation(InnerProductOptions(factor=2.0))
    sent = flat(attack.poison(scripted_view(updates, USERS[:3], ITEMS)))
    np.testing.assert_allclose(sent, np.broadcast_to(-2 * flat(updates).mean(0), sent.shape), atol=1e-5)


def test_sign_flip_turns_each_users_own_update() -> None:
    updates = honest()
    view = scripted_view(updates, USERS[4:7], ITEMS)
    sent = SignFlip(SignFlipOptions(factor=3.0)).poison(view)
    np.testing.assert_allclose(flat(sent), -3 * flat(view.honest), atol=1e-6)
    assert torch.equal(sent.items, view.honest.items)


def test_mimic_repeats_the_idle_user_who_stands_out_most() -> None:
    updates = honest()
    # One user far out along a direction of its own, and one selected user even farther.
    for user, size in ((11, 40.0), (2, 90.0)):
        updates.shared[user] = size
    view = scripted_view(updates, USERS[:3], ITEMS)
    sent = Mimic().poison(view)
    np.testing.assert_array_equal(flat(sent), np.broadcast_to(flat(updates)[11], (3, ITEMS * DIM + SHARED)))
    assert sent.users.tolist() == USERS[:3]
    assert torch.equal(sent.num_examples, view.honest.num_examples)


SEARCHED = {
    "lie": (Lie(LieOptions(assumed_rule="trimmed-mean")), lambda z: Lie(LieOptions(z=z)), "trimmed-mean"),
    "ipm": (
        InnerProductManipulation(InnerProductOptions(assumed_rule="multi-krum")),
        lambda factor: InnerProductManipulation(InnerProductOptions(factor)),
        "multi-krum",
    ),
    "sign-flip": (
        SignFlip(SignFlipOptions(assumed_rule="krum")),
        lambda factor: SignFlip(SignFlipOptions(factor)),
        "krum",
    ),
    "ipm against the geometric median": (
        InnerProductManipulation(InnerProductOptions(assumed_rule="geometric-median")),
        lambda factor: InnerProductManipulation(InnerProductOptions(factor)),
        "geometric-median",
    ),
    "lie against nearest-neighbour mixing": (
        Lie(LieOptions(assumed_rule="nnm+trimmed-mean")),
        lambda z: Lie(LieOptions(z=z)),
        "nnm+trimmed-mean",
    ),
}


@pytest.mark.parametrize("name", SEARCHED)
def test_a_searched_factor_does_more_harm_to_the_assumed_rule_than_usual_ones(name: str) -> None:
    searched, fixed, rule = SEARCHED[name]
    updates = honest()
    # Six of thirty: the attacker's share of all users, so that it reckons with 8 attackers beside its 30 honest users.
    view = scripted_view(updates, USERS[:8], ITEMS, num_users=150)
    matrix = torch.from_numpy(flat(updates))

    def harm(attack: Attack) -> float:
        sent = torch.from_numpy(flat(attack.poison(view)))
        return float((ASSUMED_RULES[rule](torch.cat([matrix, sent]), len(sent)) - matrix.mean(0)).norm())

    most = harm(searched)
    for factor in (0.1, 0.3, 0.5, 1.0, 1.5, 3.0, 10.0, 30.0, 100.0):
        # The search tries factors 5 % apart around its best.
        assert most >= 0.95 * harm(fixed(factor)), factor


def test_the_attackers_copy_sees_the_touched_coordinates() -> None:
    updates = honest()
    found = sampled_matrix(updates, np.random.default_rng(0)).numpy()
    expected = flat(updates)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-5)


@pytest.mark.parametrize(("claim", "expected"), [("median", 42), ("cap", 5000)])
def test_malicious_users_claim_what_they_are_told(claim: str, expected: int) -> None:
    updates = honest(USERS[:5])
    updates = replace(updates, num_examples=torch.tensor([7, 99, 42, 1, 80]))
    view = scripted_view(updates, USERS[:2], ITEMS)
    assert claiming(view.honest, "honest", view, 5000).num_examples.tolist() == [7, 99]
    assert claiming(view.honest, claim, view, 5000).num_examples.tolist() == [expected] * 2  # type: ignore[arg-type]


CONTROLLED = [3, 8, 13, 21, 34, 55]


def cluster_view(attack: Attack) -> AttackerView:
    return real_view(attack, CONTROLLED, CONTROLLED[:3], loss=PLAIN, side=Side(CONTROLLED))


def test_the_uniform_cluster_attack_is_a_mixture_within_the_honest_range_of_uniformity() -> None:
    attack, plain = UniformClusterAttack(), ClusterAttack()
    view = cluster_view(attack)
    num_items = len(view.model.items)
    sent = dense_rows(attack.poison(view), num_items)
    poisoned = dense_rows(plain.poison(cluster_view(plain)), num_items)
    own = dense_rows(view.honest, num_items)
    drawn = torch.arange(num_items)
    updates = view.train(torch.tensor(CONTROLLED))
    everybody = dense_rows(updates, num_items)
    some = drawn.flip(0)[:3]
    assert torch.equal(rows_of(updates, some, num_items), everybody[:, some])
    preview = preview_of(view, drawn, everybody)
    lowest = min(preview.uniformity(rows) for rows in everybody)
    for mine, honest_rows, target in zip(sent, own, poisoned, strict=True):
        assert preview.uniformity(mine) >= lowest - 1e-9
        # On the line between the honest and the poisoned update.
        step, way = (mine - honest_rows).flatten().double(), (target - honest_rows).flatten().double()
        share = float(step @ way / (way @ way))
        assert 0 <= share <= 1
        assert float((step - share * way).norm()) <= 1e-4 * float(way.norm())
        if share < 1 - 1e-6:
            assert preview.uniformity(target) < lowest


def test_with_touched_rows_the_uniform_cluster_attack_sends_no_others() -> None:
    attack = UniformClusterAttack(ClusterOptions(rows="touched"))
    view = cluster_view(attack)
    assert torch.equal(attack.poison(view).items, view.honest.items)
