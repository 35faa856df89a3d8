"""Attacks that promote items: a step against the upload raises the targets, and no other row is touched."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from attacked_world import Side, population, random_model, real_view

from attacks.recommenders.approximated_users import AHum, AHumOptions, ARa
from attacks.recommenders.explicit_boosting import ExplicitBoosting, own_vectors
from attacks.recommenders.fed_rec_attack import FedRecAttack, FedRecAttackOptions
from attacks.recommenders.fitted_users import fitted_users
from attacks.recommenders.pieck import PieckIpe, PieckOptions, PieckUea
from attacks.recommenders.psmu import Psmu
from attacks.view import AttackerView
from data.public import public_part
from protocol.requests import GlobalModel

CONTROLLED, SELECTED, TARGETS = [2, 5, 9, 30], [5, 30], (4, 11)


def promoting_view(attack):
    side = Side(CONTROLLED)
    view = real_view(attack, CONTROLLED, SELECTED, side=side)
    return side, replace(view, request=replace(view.request, targets=TARGETS))


def test_explicit_boosting_raises_the_targets_for_its_own_users() -> None:
    side, view = promoting_view(ExplicitBoosting())
    vectors = side.vectors(SELECTED)
    assert torch.equal(own_vectors(view), vectors)
    updates = ExplicitBoosting().poison(view)
    assert updates.items.tolist() == [*TARGETS, *TARGETS]
    before = view.model.items[list(TARGETS)]
    # By hand: ∂/∂v of −ln σ(u·v), averaged over users and targets.
    expected = -(torch.sigmoid(-(vectors @ before.T)).T @ vectors) / (len(SELECTED) * len(TARGETS))
    torch.testing.assert_close(updates.rows[:2], expected)
    assert bool((vectors @ (before - updates.rows[:2]).T > vectors @ before.T).sum() >= 3)


@pytest.mark.parametrize("kind", [ARa, AHum])
def test_made_up_users_need_nobody(kind) -> None:
    _, view = promoting_view(kind())
    updates = kind().poison(replace(view, train=None))  # type: ignore[arg-type]
    assert updates.items.tolist() == [*TARGETS, *TARGETS]
    assert bool(updates.rows.abs().sum() > 0)


def test_hard_users_dislike_the_targets_more_than_drawn_ones() -> None:
    scores = {}
    for steps in (0, 30):
        attack = AHum(AHumOptions(steps=steps, rate=0.1))
        _, view = promoting_view(attack)
        users = attack._users(view)
        scores[steps] = (users @ view.model.items[list(TARGETS)].T).mean()
    assert scores[30] < scores[0]


@pytest.mark.parametrize("kind", [PieckIpe, PieckUea])
def test_popular_items_are_those_that_moved_most_between_two_views(kind) -> None:
    """Until then users are honest. What it remembers goes through text and bytes, as a node keeps it."""
    options, first = PieckOptions(items=5, rounds=3), random_model()
    moved = first.items.clone()
    for place, item in enumerate([40, 7, 33, 2, 19]):
        moved[item] += 1.0 - place / 10
    moved[TARGETS[0]] += 1.5
    attack, kept = kind(options), b""
    for server_round, items in ((1, first.items), (3, moved), (4, moved)):
        _, view = promoting_view(attack)
        request = replace(view.request, server_round=server_round)
        view = replace(view, request=request, model=GlobalModel(items, view.model.shared))
        updates = attack.poison(view)
        assert (updates.items.tolist() == [*TARGETS, *TARGETS]) == (server_round == 4)
        state, memory = json.loads(json.dumps(attack.state())), attack.memory()
        assert bool(memory) == (server_round == 1)
        kept = memory or kept
        attack = kind(options)
        attack.recall(kept)
        attack.restore(state)
    assert [state[f"popular-{k}"] for k in range(5)] == [40, 7, 33, 2, 19]
    popular, targets = moved[[40, 7, 33, 2, 19]], moved[list(TARGETS)]
    step = 1e-2 * updates.rows[:2] / updates.rows[:2].norm(dim=1, keepdim=True)
    if kind is PieckUea:
        raised = torch.sigmoid(popular @ (targets - step).T).log() - torch.sigmoid(popular @ targets.T).log()
        assert bool((raised.mean(0) > 0).all())
        return
    weights = torch.tensor([5.0, 4, 3, 2, 1])[:, None] / 15
    for row, turned in zip(targets, targets - step, strict=True):
        before, after = (torch.cosine_similarity(popular, one[None])[:, None] * weights for one in (row, turned))
        # By hand: the mean of the positive ones and the mean of the others, of the pairs as they were.
        signs = (before > 0, before <= 0)
        assert sum((after - before)[sign].mean() for sign in signs if bool(sign.any())) > 0


def test_psmu_raises_targets_over_what_synthetic_users_like_best() -> None:
    """Each user uploads its own K alternatives beside the targets; the step closes the gap between them."""
    _, view = promoting_view(Psmu())
    updates = Psmu().poison(replace(view, train=None))  # type: ignore[arg-type]
    targets = torch.isin(updates.items, torch.tensor(TARGETS))
    assert updates.row_counts.tolist() == [len(TARGETS) + 10] * len(SELECTED)
    assert updates.items[targets].tolist() == [*TARGETS] * len(SELECTED)
    # The loss knows differences of scores alone: what the targets gain the alternatives lose.
    for user in range(len(SELECTED)):
        own = slice(int(updates.row_splits[user]), int(updates.row_splits[user + 1]))
        torch.testing.assert_close(updates.rows[own].sum(0), torch.zeros(updates.dim), atol=1e-6, rtol=0)
        assert bool((updates.rows[own][targets[own]] @ updates.rows[own][~targets[own]].sum(0) < 0).all())


def test_fed_rec_attack_splits_one_gradient_of_bounded_rows_over_its_users() -> None:
    options = FedRecAttackOptions(rows=7, norm=0.05)
    attack = FedRecAttack(options)
    _, view = promoting_view(attack)
    assert view.public is None
    with pytest.raises(ValueError, match="public"):
        attack.poison(view)
    view = replace(view, public=public_part(population(), 0.2, 0), generator=np.random.default_rng(0))
    updates = attack.poison(view)
    assert bool((updates.row_counts <= 7).all())
    assert bool((torch.linalg.vector_norm(updates.rows, dim=1) <= 0.05 * (1 + 1e-6)).all())
    assert all(set(TARGETS) <= set(updates.select(torch.tensor([user])).items.tolist()) for user in range(2))
    # With bounds that bind nothing the first user uploads the whole gradient, and nothing is left for the second.
    view = replace(view, generator=np.random.default_rng(0))
    updates = FedRecAttack(FedRecAttackOptions(rows=60, norm=1e9)).poison(view)
    first = updates.select(torch.tensor([0]))
    whole = torch.zeros_like(view.model.items).index_add_(0, first.items, first.rows)
    torch.testing.assert_close(whole, by_hand(replace(view, generator=np.random.default_rng(0))))
    assert not bool(updates.select(torch.tensor([1])).rows.any())


def by_hand(view: AttackerView) -> torch.Tensor:
    """FedRecAttack's gradient, user by user and target by target: g' is 1 from 0 on and eˣ below."""
    splits, items = view.public
    known = [set(items[splits[user] : splits[user + 1]].tolist()) for user in range(view.num_users)]
    known = [own for own in known if own]
    options, table = FedRecAttackOptions(), view.model.items
    vectors = fitted_users(view, [torch.tensor(sorted(own)) for own in known], options.steps, options.rate)
    gradient = torch.zeros_like(table)
    for own, vector in zip(known, vectors, strict=True):
        scores = (table @ vector).tolist()
        best = sorted(set(range(len(table))) - own - set(TARGETS), key=lambda item: -scores[item])[:10]
        for target in TARGETS:
            if target not in own:
                other = best.pop()
                slope = min(1.0, math.exp(scores[other] - scores[target]))
                gradient[other] += slope * vector
                gradient[target] -= slope * vector
    return gradient


def test_the_public_part_is_a_share_of_training_items_and_of_no_held_out_one() -> None:
    data = population()
    splits, items = public_part(data, 0.3, 5)
    everything, total = public_part(data, 1.0, 5)
    assert len(splits) == data.num_users + 1
    assert len(items) / len(total) == pytest.approx(0.3, abs=0.06)
    for user in range(data.num_users):
        known = set(total[everything[user] : everything[user + 1]].tolist())
        assert set(items[splits[user] : splits[user + 1]].tolist()) <= known
        own = data.items[data.splits[user] : data.splits[user + 1]]
        assert known <= set(own[:-2].tolist())
