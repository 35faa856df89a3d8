"""Who hosts which user: learnt from the nodes before the first round, and the cohorts drawn from it."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import draws
from draws import Stream
from protocol.requests import Hosted

Ints = NDArray[np.int64]


class PopulationError(ValueError):
    """The nodes do not make one population; the text says why."""


def digest_of(users: Ints) -> int:
    """The CRC of a node's users (n,), which tells the node whatever its id is."""
    return zlib.crc32(np.sort(users).astype(np.int64).tobytes())


@dataclass(frozen=True)
class Population:
    """All users of a run.

    ``users`` (U,) int64 in ascending order, ``nodes`` (U,) uint64 the id of the node that hosts each, ``malicious``
    (U,) bool for measurement alone; ``data_digest``: of all nodes' data, whatever their ids are.
    """

    users: Ints
    nodes: NDArray[np.uint64]
    malicious: NDArray[np.bool_]
    num_items: int
    data_digest: str = ""

    @cached_property
    def malicious_users(self) -> Ints:
        """The malicious users' ids, in ascending order."""
        return self.users[self.malicious]

    @cached_property
    def node_digests(self) -> Counter[int]:
        """The ``digest_of`` each node's users."""
        return Counter(digest_of(self.users[self.nodes == node]) for node in np.unique(self.nodes))

    @cached_property
    def fingerprint(self) -> dict[str, int]:
        """What tells another population apart: which users, who is malicious, and who shares a node."""
        _, first, node = np.unique(self.nodes, return_index=True, return_inverse=True)
        crc = 0
        for part in (self.users, self.malicious_users, first[node]):
            crc = zlib.crc32(part.astype(np.int64).tobytes(), crc)
        return {"users": len(self.users), "items": self.num_items, "crc": crc}

    @cached_property
    def honest_nodes(self) -> NDArray[np.uint64]:
        """The nodes that host at least one benign user: those that are asked for metrics."""
        return np.unique(self.nodes[~self.malicious])

    def hosted_by(self, node: int) -> int:
        """How many users a node hosts."""
        return int((self.nodes == node).sum())

    def cohort(self, seed: int, server_round: int, size: int) -> Ints:
        """The users of a round, in ascending order: ``size`` of all, without replacement."""
        generator = draws.generator(seed, Stream.COHORT, server_round)
        return self.users[np.sort(generator.choice(len(self.users), size, replace=False))]

    def sample_honest(self, size: int, generator: np.random.Generator) -> Ints:
        """At most ``size`` benign users, in ascending order."""
        honest = self.users[~self.malicious]
        return np.sort(generator.choice(honest, min(size, len(honest)), replace=False))

    def by_node(self, users: Ints) -> dict[int, Tensor]:
        """The users that each node is asked for, by node id."""
        nodes = self.nodes[np.searchsorted(self.users, users)]
        return {int(node): torch.from_numpy(users[nodes == node]) for node in np.unique(nodes)}


def population_of(answers: Mapping[int, Hosted]) -> Population:
    """Join what the nodes say. Raises ``PopulationError`` where two claim one user or see different data sets."""
    if not answers:
        raise PopulationError("No node answered the population query.")
    first_node, first = next(iter(sorted(answers.items())))
    for node, hosted in sorted(answers.items()):
        if (hosted.num_users, hosted.num_items) != (first.num_users, first.num_items):
            raise PopulationError(
                f"Node {node} has {hosted.num_users} users and {hosted.num_items} items, node {first_node} "
                f"{first.num_users} and {first.num_items}: all nodes need the same data set."
            )
    parts = sorted(answers.items())
    users = np.concatenate([hosted.users.numpy() for _, hosted in parts])
    # A deployment's node ids take all 64 bits: as signed numbers, or mixed, they would be rounded.
    nodes = np.concatenate([np.full(len(hosted.users), node, np.uint64) for node, hosted in parts])
    malicious = np.concatenate([hosted.malicious.numpy() for _, hosted in parts])
    order = np.argsort(users, kind="stable")
    users, nodes, malicious = users[order], nodes[order], malicious[order]
    twice = np.flatnonzero(np.diff(users) == 0)
    if len(twice):
        at = int(twice[0])
        raise PopulationError(
            f"Nodes {nodes[at]} and {nodes[at + 1]} both claim user {users[at]} ({len(twice)} users are claimed "
            "twice): give each node a part of its own (partition-id)."
        )
    # By their users, not by their ids: a resumed run's nodes may have others.
    held = sorted(
        (digest_of(hosted.users.numpy()), hosted.data_digest) for hosted in answers.values() if len(hosted.users)
    )
    data = hashlib.sha256(repr(held).encode()).hexdigest()[:32]
    return Population(users, nodes, malicious, first.num_items, data)
