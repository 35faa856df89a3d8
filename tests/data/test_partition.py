"""Who is malicious, who is evaluated, and who hosts whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.partition import hosted_users, malicious_order, malicious_users, never_evaluated, partition

POPULATIONS = st.integers(1, 300)
FRACTIONS = st.floats(0, 0.99)
SEEDS = st.integers(0, 2**32)


@given(POPULATIONS, FRACTIONS, FRACTIONS, SEEDS)
def test_a_larger_fraction_only_adds_malicious_users(num_users: int, one: float, other: float, seed: int) -> None:
    fewer, more = (set(malicious_users(num_users, f, seed).tolist()) for f in sorted((one, other)))
    assert fewer <= more <= set(range(num_users))
    assert len(more) == (max(1, round(max(one, other) * num_users)) if max(one, other) > 0 else 0)


@given(POPULATIONS, FRACTIONS, SEEDS)
def test_malicious_users_are_never_evaluated_and_small_fractions_compare(
    num_users: int, fraction: float, seed: int
) -> None:
    left_out = set(never_evaluated(num_users, fraction, seed).tolist())
    assert set(malicious_users(num_users, fraction, seed).tolist()) <= left_out
    if round(fraction * num_users) <= round(0.05 * num_users) and (fraction == 0 or round(0.05 * num_users)):
        assert left_out == set(never_evaluated(num_users, 0.0, seed).tolist())


def test_the_order_is_a_permutation_that_another_seed_changes() -> None:
    order = malicious_order(1000, 1)
    assert sorted(order.tolist()) == list(range(1000))
    assert (order == malicious_order(1000, 1)).all()
    assert (order != malicious_order(1000, 2)).any()


@given(POPULATIONS, st.integers(1, 40))
def test_partitions_share_users_out_evenly(num_users: int, num_partitions: int) -> None:
    users = np.arange(num_users) * 3
    parts = partition(users, num_partitions)
    assert len(parts) == num_partitions
    assert sorted(np.concatenate(parts).tolist()) == users.tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all((np.diff(part) > 0).all() for part in parts)


@given(POPULATIONS, FRACTIONS, SEEDS, st.integers(1, 40), st.integers(1, 5))
def test_every_user_lives_on_one_node_and_malicious_ones_apart(
    num_users: int, fraction: float, seed: int, num_partitions: int, wanted: int
) -> None:
    malicious = malicious_users(num_users, fraction, seed)
    nodes = [hosted_users(num_users, malicious, node, num_partitions, wanted) for node in range(num_partitions)]
    assert sorted(np.concatenate([users for users, _ in nodes]).tolist()) == list(range(num_users))
    assert all((np.diff(users) > 0).all() for users, _ in nodes)
    if num_partitions == 1:
        assert nodes[0][1] == bool(len(malicious))
        return
    for users, is_attacker in nodes:
        assert not len(users) or set(np.isin(users, malicious)) == {is_attacker}
    attackers = [is_attacker for _, is_attacker in nodes]
    assert attackers == sorted(attackers)
    assert sum(attackers) == (min(wanted, num_partitions - 1) if len(malicious) else 0)
    for kind in (False, True):
        sizes = [len(users) for users, is_attacker in nodes if is_attacker == kind]
        assert not sizes or max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("node", [-1, 3])
def test_a_node_that_does_not_exist_is_refused(node: int) -> None:
    with pytest.raises(ValueError, match="partition_id"):
        hosted_users(10, malicious_users(10, 0.1, 0), node, 3)
