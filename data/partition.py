"""Which users are malicious, which are never evaluated, and which node hosts whom."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import draws
from draws import Stream

Users = NDArray[np.int64]

NEVER_EVALUATED = 0.05
"""Share of the users that the papers' largest attacker list holds."""


def malicious_order(num_users: int, seed: int) -> Users:
    """All users in the order in which a growing fraction makes them malicious: (U,) a permutation."""
    return draws.generator(seed, Stream.MALICIOUS_USERS).permutation(num_users)


def malicious_users(num_users: int, fraction: float, seed: int) -> Users:
    """The malicious users in ascending order: none for fraction 0, else at least one.

    A smaller fraction's users are among a larger one's.
    """
    count = max(1, round(fraction * num_users)) if fraction > 0 else 0
    return np.sort(malicious_order(num_users, seed)[:count])


def never_evaluated(num_users: int, fraction: float, seed: int, share: float = NEVER_EVALUATED) -> Users:
    """The users that no evaluation counts, in ascending order: the malicious ones, and more up to the share.

    They are the same for every fraction up to the share, so that runs with different fractions, or with
    none, are judged on the same users (the reference never evaluates its largest attacker list).
    """
    count = max(round(share * num_users), len(malicious_users(num_users, fraction, seed)))
    return np.sort(malicious_order(num_users, seed)[:count])


def partition(users: Users, num_partitions: int) -> list[Users]:
    """Deal sorted users out like cards: ascending arrays whose lengths differ by at most one.

    Some are empty where there are more partitions than users. Raises ``ValueError`` for no partitions.
    """
    if num_partitions < 1:
        raise ValueError(f"num_partitions = {num_partitions}: expected at least 1.")
    return [users[index::num_partitions] for index in range(num_partitions)]


def hosted_users(
    num_users: int, malicious: Users, partition_id: int, num_partitions: int, attackers: int = 1
) -> tuple[Users, bool]:
    """The users of one node in ascending order, and whether it is an attacker's.

    Malicious users live together on the last partitions, as many as there are ``attackers``, and honest users
    on the others. A single node hosts everybody; it is an attacker's if anybody is malicious. Raises
    ``ValueError`` for a partition that does not exist.
    """
    if not 0 <= partition_id < num_partitions:
        raise ValueError(f"partition_id = {partition_id}: expected 0 to {num_partitions - 1}.")
    everybody = np.arange(num_users)
    if not len(malicious) or num_partitions == 1:
        return partition(everybody, num_partitions)[partition_id], bool(len(malicious))
    attacker_nodes = min(max(1, attackers), num_partitions - 1)
    honest_nodes = num_partitions - attacker_nodes
    if partition_id >= honest_nodes:
        return partition(np.sort(malicious), attacker_nodes)[partition_id - honest_nodes], True
    honest = np.ones(num_users, np.bool_)
    honest[malicious] = False
    return partition(everybody[honest], honest_nodes)[partition_id], False
