"""What a cohort draws: only what it may, uniformly, and the same wherever its users live."""

import numpy as np
import pytest
import torch

from client.cohort import cohort_of, contrastive_draws, training_pairs
from data.interactions import leave_one_out
from data.shard import shard_of
from data.synthetic import synthetic
from protocol.requests import LossOptions

LOSS = LossOptions(contrastive_weight=1.0)
SPLIT = leave_one_out(synthetic())
SHARD = shard_of(SPLIT, np.arange(SPLIT.num_users))


def touched(user: int) -> set[int]:
    train = SHARD.train_items[SHARD.train_splits[user] : SHARD.train_splits[user + 1]].tolist()
    return {*train, int(SHARD.valid[user]), int(SHARD.test[user])}


def test_negatives_are_items_that_the_user_never_touched() -> None:
    cohort = cohort_of(SHARD, np.array([3, 50, 400]))
    pairs = training_pairs(cohort, LOSS, 0, 1, 8)
    draws = contrastive_draws(cohort, LOSS, 0, 1, 8)
    for position, user in enumerate(cohort.users.tolist()):
        mine = pairs.owner == position
        assert set(pairs.positives[mine].tolist()) <= touched(user)
        assert not set(pairs.negatives[mine].tolist()) & touched(user)
        items = draws.items[draws.owner == position]
        train = set(cohort.items[cohort.owner == position].tolist())
        assert set(items[:, 0].tolist()) == train
        assert set(items[:, 1].tolist()) <= train
        assert bool((items[:, 0] != items[:, 1]).all())
        assert not set(items[:, 2:].flatten().tolist()) & touched(user)


def test_every_untouched_item_is_drawn_equally_often() -> None:
    """A χ² of 100,000 draws over the untouched items stays below its 99.9 % quantile (about m + 3.1·√(2m))."""
    user = 7
    cohort = cohort_of(SHARD, np.array([user]))
    words = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    drawn = cohort.untouched_items(np.zeros(len(words), np.int64), words)
    untouched = sorted(set(range(SHARD.num_items)) - touched(user))
    counts = np.bincount(drawn, minlength=SHARD.num_items)[untouched]
    assert counts.sum() == len(words)
    expected = len(words) / len(untouched)
    degrees = len(untouched) - 1
    assert ((counts - expected) ** 2 / expected).sum() < degrees + 3.1 * np.sqrt(2 * degrees)


def test_a_users_draws_do_not_depend_on_who_else_takes_part() -> None:
    alone = cohort_of(SHARD, np.array([50]))
    among = cohort_of(SHARD, np.array([9, 50, 51]))
    for draw in (training_pairs, contrastive_draws):
        one, many = draw(alone, LOSS, 4, 9, 8), draw(among, LOSS, 4, 9, 8)
        mine = many.owner == 1
        fields = ("positives", "negatives", "keep") if draw is training_pairs else ("items", "keep")
        for name in fields:
            assert torch.equal(getattr(one, name), getattr(many, name)[mine])


def test_static_negatives_stay_and_fresh_ones_change() -> None:
    cohort = cohort_of(SHARD, np.array([50]))
    static = [training_pairs(cohort, LossOptions(), 0, r, 8) for r in (1, 2)]
    assert torch.equal(static[0].negatives, static[1].negatives)
    assert not torch.equal(static[0].keep, static[1].keep)
    fresh = [training_pairs(cohort, LossOptions(negatives="fresh"), 0, r, 8) for r in (1, 2)]
    assert not torch.equal(fresh[0].negatives, fresh[1].negatives)


def test_dropout_drops_its_share() -> None:
    cohort = cohort_of(SHARD, np.arange(40))
    keep = training_pairs(cohort, LossOptions(dropout=0.2), 0, 1, 64).keep
    share = float((~keep).to(torch.float64).mean())
    # Standard deviation of a share of so many draws: sqrt(0.16 / number).
    assert abs(share - 0.2) < 5 * np.sqrt(0.16 / keep.numel()) + 1 / 65536


def test_untouched_items_are_the_same_from_a_list_and_from_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(1).integers(0, 2**64, 500, np.uint64)
    users = SHARD.users[:4]
    owner = np.sort(np.random.default_rng(2).integers(0, len(users), len(words)))
    found = []
    for listed_for_a_draw in (0, 1 << 30):
        monkeypatch.setattr("client.cohort.LISTED_FOR_A_DRAW", listed_for_a_draw)
        found.append(cohort_of(SHARD, users).untouched_items(owner, words))
    assert np.array_equal(*found)
