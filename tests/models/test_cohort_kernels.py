"""A cohort's compiled gradients: against the torch path, which autograd judges, on what the kernels themselves drew."""

import numpy as np
import pytest
import torch

from models.kernels.cohort import Histories, Task, cohort_gradients, negatives_of
from models.kernels.contrastive import draw_contrastive
from models.kernels.dropout import kept_coordinates
from models.kernels.hashing import user_keys
from models.recommenders.contrastive import ContrastiveDraws
from models.recommenders.mf import Pairs, cohort_gradient

NUM_ITEMS = 60
STREAMS = (5, 6, 7, 8)


def histories(*items: list[int], users: list[int] | None = None) -> Histories:
    touched = [np.unique([*own, NUM_ITEMS - 1]) for own in items]
    return Histories(
        np.array(users or range(len(items))),
        np.cumsum([0, *map(len, items)]),
        np.concatenate([np.array(own, np.int64) for own in items]),
        np.cumsum([0, *map(len, touched)]),
        np.concatenate(touched),
    )


def some_histories() -> Histories:
    random = np.random.default_rng(0)
    # One example, an item that comes again and again, a long history with repetitions, most of the items.
    return histories(
        [3],
        [7, 7, 7],
        random.integers(0, 40, 300).tolist(),
        [4, 2, 4, 9],
        np.arange(50).tolist(),
        users=[2, 5, 11, 12, 90],
    )


def task(weight: float = 0.0, dropped: int = 13107, server_round: int = 3) -> Task:
    return Task(1, server_round, 0, dropped, weight, 4, STREAMS)


def parameters(count: int, dim: int, kind: type) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.normal(0, 0.3, (NUM_ITEMS, dim)).astype(kind), random.normal(0, 0.5, (count, dim)).astype(kind)


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("dropped", [0, 13107])
@pytest.mark.parametrize(("dim", "kind", "tolerance"), [(7, np.float64, 1e-12), (64, np.float32, 2e-6)])
def test_the_kernels_are_the_torch_path(weight: float, dropped: int, dim: int, kind: type, tolerance: float) -> None:
    own, asked = some_histories(), task(weight, dropped)
    table, vectors = parameters(len(own.users), dim, kind)
    negatives = negatives_of(own, asked, NUM_ITEMS)
    found = cohort_gradients(table, vectors, own, asked, own.items, negatives)

    def kept(stream: int, splits: np.ndarray, width: int) -> torch.Tensor | None:
        if not dropped:
            return None
        mask = kept_coordinates(1, stream, 3, own.users, splits, width, dim, dropped)
        return torch.from_numpy(mask)

    pairs = Pairs(*map(torch.from_numpy, (own.splits, own.items, negatives)), kept(6, own.splits, 3), dropped / 65536)
    draws = None
    if weight:
        keys = user_keys(1, 7, 3, own.users)
        splits, drawn = draw_contrastive(keys, own.splits, own.items, own.touched_splits, own.touched, NUM_ITEMS, 4)
        draws = ContrastiveDraws(torch.from_numpy(splits), torch.from_numpy(drawn), kept(8, splits, 6), dropped / 65536)
    expected = cohort_gradient(torch.from_numpy(table), torch.from_numpy(vectors), pairs, draws, weight)
    np.testing.assert_array_equal(found.row_splits, expected.row_splits)
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_allclose(found.rows, expected.rows, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.vectors, expected.vectors, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=0, atol=2 * tolerance)


def test_a_users_numbers_do_not_depend_on_the_rest_of_the_cohort() -> None:
    own, asked = some_histories(), task(0.7)
    table, vectors = parameters(len(own.users), 64, np.float32)
    whole = cohort_gradients(table, vectors, own, asked, own.items, negatives_of(own, asked, NUM_ITEMS))
    for k in range(len(own.users)):
        a, b = own.splits[k : k + 2]
        c, d = own.touched_splits[k : k + 2]
        alone = Histories(
            own.users[k : k + 1], np.array([0, b - a]), own.items[a:b], np.array([0, d - c]), own.touched[c:d]
        )
        one = cohort_gradients(
            table, vectors[k : k + 1], alone, asked, alone.items, negatives_of(alone, asked, NUM_ITEMS)
        )
        rows = slice(*whole.row_splits[k : k + 2])
        np.testing.assert_array_equal(one.rows, whole.rows[rows])
        np.testing.assert_array_equal(one.vectors[0], whole.vectors[k])
        assert one.losses[0] == whole.losses[k]


def test_negatives_are_untouched_and_uniform_however_they_are_looked_up() -> None:
    """A short history is searched, a long one listed: both pick by the same words."""
    few, many = [1, 2, 40], [1, 2, 40] * 40
    searched, listed = histories(few), histories(many)
    short, long = negatives_of(searched, task(), NUM_ITEMS), negatives_of(listed, task(), NUM_ITEMS)
    np.testing.assert_array_equal(short, long[:3])
    counts = np.bincount(negatives_of(histories([1, 2, 40] * 20_000), task(), NUM_ITEMS), minlength=NUM_ITEMS)
    assert not counts[[1, 2, 40, NUM_ITEMS - 1]].any()
    drawn = np.delete(counts, [1, 2, 40, NUM_ITEMS - 1])
    # χ² of 55 degrees of freedom: beyond 110 lies less than 2e-5.
    assert np.square(drawn - drawn.mean()).sum() / drawn.mean() < 110


def test_a_positive_is_another_item_and_each_other_example_is_as_likely() -> None:
    items = [8, 8, 8, 3, 5, 5]
    keys = user_keys(0, 7, 1, np.arange(6000))
    many = histories(*[items] * 6000)
    splits, drawn = draw_contrastive(keys, many.splits, many.items, many.touched_splits, many.touched, NUM_ITEMS, 2)
    assert splits[-1] == len(drawn) == 36_000
    assert (drawn[:, 0] != drawn[:, 1]).all()
    for item, others in {8: {3: 1 / 3, 5: 2 / 3}, 3: {8: 3 / 5, 5: 2 / 5}, 5: {8: 3 / 4, 3: 1 / 4}}.items():
        positives = drawn[drawn[:, 0] == item, 1]
        for other, share in others.items():
            deviation = np.sqrt(share * (1 - share) / len(positives))
            assert abs((positives == other).mean() - share) < 4.5 * deviation
    assert not np.isin(drawn[:, 2:], [*items, NUM_ITEMS - 1]).any()


def test_nothing_left_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="has touched every item"):
        negatives_of(histories(list(range(NUM_ITEMS))), task(), NUM_ITEMS)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """In standard deviations of what independent decisions have."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1] * np.sqrt(one.size))


def test_dropout_is_as_good_as_independent() -> None:
    """Its share at every coordinate, neighbouring coordinates, vectors, examples, users, rounds and streams."""
    users, dim, dropped = np.arange(40), 64, 13107
    splits = np.arange(41) * 500

    def kept(server_round: int = 1, stream: int = 6) -> np.ndarray:
        return kept_coordinates(0, stream, server_round, users, splits, 3, dim, dropped).reshape(40, 500, 3, dim)

    first = kept()
    share, size = 1 - dropped / 65536, 40 * 500 * 3
    deviations = (first.mean((0, 1, 2)) - share) / np.sqrt(share * (1 - share) / size)
    assert np.abs(deviations).max() < 4.5
    assert abs(first.mean() - share) < 4.5 * np.sqrt(share * (1 - share) / first.size)
    pairs = {
        "coordinates": (first[..., :-1], first[..., 1:]),
        "halves of a word": (first[..., :32], first[..., 32:]),
        "vectors": (first[:, :, :-1], first[:, :, 1:]),
        "examples": (first[:, :-1], first[:, 1:]),
        "users": (first[:-1], first[1:]),
        "rounds": (first, kept(server_round=2)),
        "streams": (first, kept(stream=8)),
    }
    for name, (one, other) in pairs.items():
        assert abs(correlation(one, other)) < 4.5, name
