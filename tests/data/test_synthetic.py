"""The data sets that are made, not read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data
from data.interactions import Interactions, leave_one_out
from data.scale import CHUNK_USERS, scale
from data.synthetic import World, synthetic


@pytest.fixture(scope="module")
def embedded() -> Interactions:
    return data.load("synthetic")


def test_the_same_arguments_give_the_same_data_in_another_process(embedded: Interactions) -> None:
    code = "import data; x = data.load('synthetic'); print(hash(x.items.tobytes()), hash(x.splits.tobytes()))"
    root = Path(data.__file__).parents[1]
    job = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"PYTHONHASHSEED": "0"}, capture_output=True, check=True
    )
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"PYTHONHASHSEED": "0"}, capture_output=True, check=True
    )
    assert job.stdout == other.stdout
    again = synthetic()
    assert (again.items == embedded.items).all()
    assert len(synthetic(seed=1).items) != len(embedded.items) or (synthetic(seed=1).items != embedded.items).any()


def test_no_user_has_an_item_twice_and_all_are_evaluated(embedded: Interactions) -> None:
    owner = np.repeat(np.arange(embedded.num_users), embedded.counts)
    assert len(np.unique(owner * embedded.num_items + embedded.items)) == embedded.num_interactions
    assert leave_one_out(embedded).test.min() >= 0
    assert (np.diff(embedded.times)[np.diff(owner) == 0] > 0).all()


def test_popularity_is_skewed(embedded: Interactions) -> None:
    counts = np.sort(np.bincount(embedded.items, minlength=embedded.num_items))[::-1]
    tenth = embedded.num_items // 10
    # An even curve would give the most popular tenth 0.1.
    assert counts[:tenth].sum() > 0.2 * counts.sum()


def test_there_is_taste_that_popularity_does_not_know(embedded: Interactions) -> None:
    """Neighbours' histories must rank the held-out items clearly above what popularity alone does."""
    split = leave_one_out(embedded)
    owner = np.repeat(np.arange(split.num_users), np.diff(split.train_splits))
    seen = np.zeros((split.num_users, split.num_items))
    seen[owner, split.train_items] = 1
    unit = seen / np.linalg.norm(seen, axis=1, keepdims=True)
    neighbours = (unit @ unit.T) ** 4 @ seen
    popularity = np.broadcast_to(seen.sum(0), seen.shape)

    def hit_ratio(scores: np.ndarray) -> float:
        masked = np.where(seen > 0, -np.inf, scores)
        users = np.arange(split.num_users)
        masked[users, split.valid] = -np.inf
        return float(((masked >= masked[users, split.test][:, None]).sum(1) <= 5).mean())

    assert hit_ratio(neighbours) > 2 * hit_ratio(popularity)


def test_there_is_order(embedded: Interactions) -> None:
    """Neighbours in time share their fellow users more than two random items of the same user do."""
    owner = np.repeat(np.arange(embedded.num_users), embedded.counts)
    seen = np.zeros((embedded.num_users, embedded.num_items))
    seen[owner, embedded.items] = 1
    alike = np.corrcoef(seen.T + np.random.default_rng(0).normal(0, 1e-6, seen.T.shape))
    same_user = np.diff(owner) == 0
    following = alike[embedded.items[:-1], embedded.items[1:]][same_user].mean()
    shuffled = embedded.items[np.lexsort((np.random.default_rng(0).random(len(owner)), owner))]
    assert following > alike[shuffled[:-1], shuffled[1:]][same_user].mean() + 0.01


def test_a_world_has_the_size_that_was_asked_for() -> None:
    made = synthetic(World(num_users=50, num_items=90, mean_length=15))
    assert (made.num_users, made.num_items) == (50, 90)
    assert 10 <= made.counts.min() <= made.counts.max() <= 30


def test_scale_gives_the_first_users_the_same_whatever_the_population() -> None:
    small, large = scale(CHUNK_USERS, 500), scale(CHUNK_USERS + 3, 500)
    assert (large.splits[: len(small.splits)] == small.splits).all()
    assert (large.items[: len(small.items)] == small.items).all()
    assert large.items.max() < 500
    assert large.items.min() >= 0
    assert 5 <= large.counts.min() <= large.counts.max() < 45
    assert 14 < large.counts.mean() < 16
    assert leave_one_out(large).test.min() >= 0


def test_scale_comes_memory_mapped(tmp_path: Path) -> None:
    for _ in range(2):
        made = data.load("scale-10k", tmp_path)
        assert (made.num_users, made.num_items) == (10_000, 200_000)
        assert isinstance(made.items, np.memmap)
