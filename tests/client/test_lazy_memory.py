"""Memory is that of the users who take part, however many there are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import data.shard
from client.state.private_vectors import PrivateVectors
from client.state.store import FILE, Store
from data.interactions import leave_one_out
from data.scale import scale
from data.shard import load_shard, shard_of

USERS, DIM, ASKED = 400_000, 64, 30
MIB = 1 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("on_disk", [False, True])
def test_vectors_take_memory_where_they_are_touched(on_disk: bool, tmp_path: Path) -> None:
    users = np.linspace(0, USERS - 1, ASKED, dtype=np.int64)

    def train(store: Store, users: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """One round of 30 users: their vectors before it and after it."""
        private = PrivateVectors(store, USERS, DIM, 0)
        with store.begin():
            store.begin_round(1)
            state = private.at(users, 1, 1e-3)
            private.step(users, state, torch.ones(ASKED, DIM), 1, 1e-3)
        return state.vectors, private.at(users, 2, 1e-3).vectors

    # What importing and first calls take is not what is asked about.
    train(Store(tmp_path / "warm" / FILE), np.arange(ASKED))
    before = resident()
    path = tmp_path / "vectors" / FILE
    first, second = train(Store(path if on_disk else None), users)
    assert not torch.equal(first, second)
    assert resident() - before < 8 * MIB
    if on_disk:
        # Twice 768 bytes for each of 30 users at most, in whole pages, and the empty tables.
        assert sum(file.stat().st_blocks * 512 for file in path.parent.iterdir()) <= ASKED * 4096 + 40 * 4096


def test_a_shard_read_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    interactions = scale(500, 300)
    users = np.arange(2, 500, 3)
    whole = shard_of(leave_one_out(interactions), users)
    for size in (1, 7, 165, 166, 167):
        monkeypatch.setattr(data.shard, "USERS_AT_ONCE", size)
        parts = load_shard(interactions, users)
        for name in ("users", "train_splits", "train_items", "valid", "test"):
            one, other = getattr(whole, name), getattr(parts, name)
            assert np.array_equal(one, other)
            assert one.dtype == other.dtype


def test_ids_take_no_more_than_their_digits() -> None:
    made = scale(1000, 300)
    assert made.user_ids.tolist() == [str(user) for user in range(1000)]
    assert len(made.user_ids.letters) == sum(len(str(user)) for user in range(1000))
