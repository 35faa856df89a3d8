"""Spattack: rows that leave nothing of the benign ones, and one fixed row an item."""

import numpy as np
import pytest
import torch
from attacked_world import random_model, random_updates, real_view

from attacks.recommenders.spattack import SpattackL, SpattackO, SpattackOptions
from protocol.updates import concat

ITEMS, DIM = 12, 3


@pytest.mark.parametrize("rows", ["all", "sampled"])
def test_the_omniscient_one_leaves_a_sum_of_zero_in_every_row_that_it_uploads(rows) -> None:
    benign = random_updates([0, 3, 4, 8], ITEMS, DIM, 2, seed=1)
    own = random_updates([1, 6], ITEMS, DIM, 2, seed=2)
    attack = SpattackO(SpattackOptions(rows=rows))
    poisoned = attack.poison_knowing(benign, own, ITEMS, np.random.default_rng(0))
    mean = concat([benign, poisoned]).weighted_mean(ITEMS).items
    touched = torch.zeros(ITEMS, dtype=torch.bool)
    touched[poisoned.items] = True
    torch.testing.assert_close(mean[touched], torch.zeros_like(mean[touched]), atol=1e-5, rtol=0)
    assert bool(touched.all()) or rows == "sampled"
    largest = ITEMS if rows == "all" else int(benign.row_counts.max())
    assert poisoned.row_counts.tolist() == [largest] * 2
    assert torch.equal(poisoned.users, own.users)
    assert torch.equal(poisoned.shared, own.shared)


def test_the_other_one_uploads_the_same_row_for_an_item_whoever_and_whenever() -> None:
    controlled = [2, 5, 9, 30]
    found = [
        SpattackL(SpattackOptions(rows=rows)).poison(real_view(SpattackL(), controlled, selected, server_round=number))
        for rows, selected, number in (("all", [2, 5], 1), ("all", [9], 7), ("sampled", [5, 30], 3))
    ]
    table = found[0].select(torch.tensor([0])).rows
    assert len(table) == len(random_model().items)
    assert all(torch.equal(updates.rows, table[updates.items]) for updates in found)
    assert found[2].row_counts.max() < len(table)
