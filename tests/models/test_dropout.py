"""Dropout by key and place: the right share, no pattern, and nothing that depends on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.recommenders import dropout

KEYS = dropout.user_keys(0, 1, np.arange(40))


@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5])
def test_share_and_scale(probability: float) -> None:
    factors = dropout.factors(KEYS, 100, 101, probability, torch.float64)
    dropped = (factors == 0).double()
    # 5 standard errors of a mean of independent decisions, overall and for each user.
    error = np.sqrt(probability * (1 - probability) / 10_100)
    assert dropped.mean().item() == pytest.approx(probability, abs=5 * error / np.sqrt(40) + 1 / 65536)
    assert (dropped.mean((1, 2)) - probability).abs().max() < 5 * error
    kept = factors[factors > 0]
    assert kept.min() == kept.max()
    assert kept[0].item() == pytest.approx(1 / (1 - probability), rel=1e-4)


def test_places_and_users_are_uncorrelated() -> None:
    decisions = (dropout.factors(KEYS, 64, 64, 0.5, torch.float64) > 0).double() * 2 - 1
    limit = 5 / np.sqrt(decisions.numel())
    for dim in (0, 1, 2):
        for shift in (1, 2, 3, 8, 32):
            assert (decisions * decisions.roll(shift, dim)).mean().abs() < limit


def test_a_decision_does_not_depend_on_the_batch() -> None:
    wide = dropout.factors(KEYS, 90, 77, 0.2, torch.float32)
    narrow = dropout.factors(KEYS[5:7], 31, 12, 0.2, torch.float32)
    assert torch.equal(wide[5:7, :31, :12], narrow)


def test_keys_depend_on_seed_round_and_user_alone() -> None:
    assert torch.equal(dropout.user_keys(0, 1, np.array([7, 3])), KEYS[[7, 3]])
    others = [dropout.user_keys(1, 1, np.arange(40)), dropout.user_keys(0, 2, np.arange(40))]
    assert len(set(torch.cat([KEYS, *others]).tolist())) == 120


def test_spread_keys_differ() -> None:
    assert len(set(dropout.spread(KEYS, 9).flatten().tolist())) == 360
