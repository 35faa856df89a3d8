"""LabelFlip and FedAttack are honest training on other pairs: which pairs, and that it is their gradient."""

import numpy as np
import pytest
import torch
from attacked_world import DIM, PLAIN, SEED, Side, dense, population, random_model, real_view
from torch import Tensor

from attacks.recommenders.fed_attack import FedAttack, FedAttackOptions, extreme_pairs, hardest_pairs
from attacks.recommenders.label_flip import LabelFlip
from attacks.view import TrainingPairs
from models.recommenders.cohort import cohort_of
from models.recommenders.recommender import Training

CONTROLLED = [2, 5, 11, 30, 31, 48]
SELECTED = [5, 30, 48]


def honest_pairs(side: Side, user: int) -> tuple[list[int], list[int]]:
    cohort = cohort_of(side.shard, np.array([user]))
    pairs = Training.honest(cohort, torch.empty(1, DIM), PLAIN, SEED, 1)
    return pairs.positives.tolist(), pairs.negatives.tolist()


def slow_gradient(table: Tensor, vector: Tensor, positives: list[int], negatives: list[int]) -> np.ndarray:
    """∂/∂E of Eq. 1 without its L2 term, pair by pair."""
    items = table.to(torch.float64).requires_grad_()
    user = vector.to(torch.float64)
    terms = [
        torch.log(torch.sigmoid(user @ items[i] - user @ items[j]) + 1e-8)
        for i, j in zip(positives, negatives, strict=True)
    ]
    (gradient,) = torch.autograd.grad(-torch.stack(terms).mean(), items)
    return gradient.numpy()


def test_label_flip_is_the_gradient_of_the_swapped_pairs() -> None:
    side, attack, model = Side(CONTROLLED), LabelFlip(), random_model()
    poisoned = attack.poison(real_view(attack, CONTROLLED, SELECTED, model=model, side=side))
    for k, user in enumerate(SELECTED):
        positives, negatives = honest_pairs(side, user)
        expected = slow_gradient(model.items, side.vectors([user])[0], negatives, positives)
        np.testing.assert_allclose(dense(poisoned, population().num_items)[k], expected, atol=1e-7)
    assert poisoned.users.tolist() == SELECTED
    assert poisoned.num_examples.tolist() == [len(honest_pairs(side, user)[0]) for user in SELECTED]


def test_label_flip_touches_what_the_honest_update_touches() -> None:
    attack = LabelFlip()
    view = real_view(attack, CONTROLLED, SELECTED)
    poisoned = attack.poison(view)
    assert torch.equal(poisoned.items, view.honest.items)
    assert not torch.equal(poisoned.rows, view.honest.rows)


def slow_hardest(table: Tensor, vector: Tensor, positives: list[int]) -> tuple[list[int], list[int]]:
    scores = (table.to(torch.float64) @ vector.to(torch.float64)).tolist()
    candidates = [item for item in range(len(scores)) if item not in positives]
    near = sorted(candidates, key=lambda item: -scores[item])
    far = sorted(candidates, key=lambda item: scores[item])
    return [far[k % len(far)] for k in range(len(positives))], [near[k % len(near)] for k in range(len(positives))]


@pytest.mark.parametrize("reading", ["farthest", "own"])
def test_fed_attack_trains_on_the_hardest_pairs(reading: str) -> None:
    side, model = Side(CONTROLLED), random_model()
    attack = FedAttack(FedAttackOptions(positives=reading))  # type: ignore[arg-type]
    poisoned = attack.poison(real_view(attack, CONTROLLED, SELECTED, model=model, side=side))
    for k, user in enumerate(SELECTED):
        own, _ = honest_pairs(side, user)
        vector = side.vectors([user])[0]
        farthest, nearest = slow_hardest(model.items, vector, own)
        positives = farthest if reading == "farthest" else own
        expected = slow_gradient(model.items, vector, positives, nearest)
        np.testing.assert_allclose(dense(poisoned, population().num_items)[k], expected, atol=1e-7)


def slow_extremes(table: Tensor, vector: Tensor, count: int) -> tuple[list[int], list[int]]:
    """One positive, the item with the lowest of all scores, and as negatives the ``count`` items with the highest."""
    scores = (table.to(torch.float64) @ vector.to(torch.float64)).tolist()
    ranked = sorted(range(len(scores)), key=lambda item: -scores[item])
    worst = min(range(len(scores)), key=lambda item: scores[item])
    return [worst] * count, [ranked[k % len(ranked)] for k in range(count)]


def test_the_programs_fed_attack_has_one_positive_and_any_negatives() -> None:
    side, model = Side(CONTROLLED), random_model()
    attack = FedAttack(FedAttackOptions(reading="program"))
    poisoned = attack.poison(real_view(attack, CONTROLLED, SELECTED, model=model, side=side))
    for k, user in enumerate(SELECTED):
        own, _ = honest_pairs(side, user)
        vector = side.vectors([user])[0]
        expected = slow_gradient(model.items, vector, *slow_extremes(model.items, vector, len(own)))
        np.testing.assert_allclose(dense(poisoned, population().num_items)[k], expected, atol=1e-7)


def test_the_programs_choice_equals_a_slow_one_for_users_of_any_length() -> None:
    generator = np.random.default_rng(6)
    table = torch.from_numpy(generator.normal(size=(5, 4))).to(torch.float32)
    vectors = torch.from_numpy(generator.normal(size=(3, 4))).to(torch.float32)
    splits, positives = torch.tensor([0, 2, 2, 14]), torch.zeros(14, dtype=torch.int64)
    chosen = extreme_pairs(TrainingPairs(splits, positives, positives, vectors, table))
    for user in range(3):
        part = slice(int(splits[user]), int(splits[user + 1]))
        expected = slow_extremes(table, vectors[user], part.stop - part.start)
        assert (chosen[0][part].tolist(), chosen[1][part].tolist()) == expected


def test_fed_attack_follows_the_model() -> None:
    side, attack = Side(CONTROLLED), FedAttack()
    first = attack.poison(real_view(attack, CONTROLLED, SELECTED, model=random_model(0), side=side))
    second = attack.poison(real_view(attack, CONTROLLED, SELECTED, model=random_model(1), side=side))
    assert first.items.tolist() != second.items.tolist()


def test_the_choice_of_items_equals_a_slow_one_for_users_of_any_length() -> None:
    """Users with no pair, with repeated positives, and with more pairs than there are other items."""
    generator = np.random.default_rng(5)
    table = torch.from_numpy(generator.normal(size=(12, 4))).to(torch.float32)
    vectors = torch.from_numpy(generator.normal(size=(5, 4))).to(torch.float32)
    own = [[3], [], [1, 1, 7], list(range(9)), [11, 0, 4, 4, 2, 8]]
    positives = torch.tensor([item for items in own for item in items])
    splits = torch.tensor([0, *np.cumsum([len(items) for items in own])])
    pairs = TrainingPairs(splits, positives, positives.flip(0), vectors, table)
    farthest, nearest = hardest_pairs(pairs)
    for user, items in enumerate(own):
        part = slice(int(splits[user]), int(splits[user + 1]))
        expected = slow_hardest(table, vectors[user], items)
        assert (farthest[part].tolist(), nearest[part].tolist()) == expected


def test_equal_scores_go_to_the_lower_item() -> None:
    table = torch.zeros(5, 2)
    pairs = TrainingPairs(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([0, 0]), torch.ones(1, 2), table)
    farthest, nearest = hardest_pairs(pairs)
    assert farthest.tolist() == [0, 2]
    assert nearest.tolist() == [0, 2]
