"""What a cohort draws: only what it may, uniformly, and the same wherever its users live."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from data.interactions import leave_one_out
from data.shard import Shard, shard_of
from data.synthetic import synthetic
from models.recommenders import mf_recommender
from models.recommenders.cohort import Cohort, cohort_of, contrastive_draws
from models.recommenders.mf import Pairs
from models.recommenders.recommender import Training
from protocol.requests import LossOptions

LOSS = LossOptions(contrastive_weight=1.0)
SPLIT = leave_one_out(synthetic())
SHARD = shard_of(SPLIT, np.arange(SPLIT.num_users))


def training_pairs(cohort: Cohort, loss: LossOptions, seed: int, server_round: int, dim: int) -> Pairs:
    vectors = torch.empty(len(cohort.users), dim)
    return mf_recommender.training_pairs(Training.honest(cohort, vectors, loss, seed, server_round), dim)


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


def test_a_positive_is_another_item_where_a_user_comes_back_to_items() -> None:
    histories = [[5, 5, 9, 5, 2, 9], [7, 7], [1, 2, 3]]
    shard = Shard(
        users=np.arange(3),
        train_splits=np.array([0, 6, 8, 11]),
        train_items=np.concatenate(histories).astype(np.int32),
        valid=np.full(3, -1, np.int32),
        test=np.full(3, -1, np.int32),
        num_items=20,
        num_users=3,
    )
    seen: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for server_round in range(1, 401):
        draws = contrastive_draws(cohort_of(shard, np.arange(3)), LOSS, 0, server_round, 8)
        # Who has a single item has no other one.
        assert torch.bincount(draws.owner, minlength=3).tolist() == [6, 0, 3]
        for user, (anchor, positive) in zip(draws.owner.tolist(), draws.items[:, :2].tolist(), strict=True):
            seen[user, anchor][positive] += 1
    # Uniform over the other items' examples: 9 stands twice beside 5, and 2 once.
    assert set(seen[0, 5]) == {9, 2}
    assert seen[0, 5][9] / seen[0, 5].total() == pytest.approx(2 / 3, abs=0.05)
    assert set(seen[0, 9]) == {5, 2}
    assert seen[0, 9][5] / seen[0, 9].total() == pytest.approx(3 / 4, abs=0.05)
    assert seen[0, 2].keys() == {5, 9}
    assert seen[2, 1].keys() == {2, 3}
