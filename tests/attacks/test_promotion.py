"""Attacks that promote items: a step against the upload raises the targets, and no other row is touched."""

from dataclasses import replace

import pytest
import torch
from attacked_world import Side, real_view

from attacks.recommenders.approximated_users import AHum, AHumOptions, ARa
from attacks.recommenders.explicit_boosting import ExplicitBoosting, own_vectors

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
