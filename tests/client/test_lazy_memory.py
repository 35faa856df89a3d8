"""Memory is that of the users who take part, however many there are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import data.shard
from client.state.private_vectors import PrivateVectors
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
    places = np.linspace(0, USERS - 1, ASKED, dtype=np.int64)
    # What importing and first calls take is not what is asked about.
    warm = PrivateVectors(np.arange(ASKED), USERS, DIM, 0, tmp_path / "warm")
    everybody = np.arange(ASKED)
    warm.step(everybody, warm.at(everybody, 1, 1e-3), torch.ones(ASKED, DIM), 1, 1e-3)

    before = resident()
    vectors = PrivateVectors(np.arange(USERS), USERS, DIM, 0, tmp_path / "vectors" if on_disk else None)
    state = vectors.at(places, 1, 1e-3)
    vectors.step(places, state, torch.ones(ASKED, DIM), 1, 1e-3)
    again = vectors.at(places, 2, 1e-3)
    assert not torch.equal(state.vectors, again.vectors)
    # The users' indexes take 8 bytes each; a page of each of two files, for 30 users, a quarter of a megabyte.
    assert resident() - before < 8 * USERS + 8 * MIB
    if on_disk:
        assert (tmp_path / "vectors" / "vectors.float32").stat().st_blocks * 512 <= ASKED * 2 * 4096


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
