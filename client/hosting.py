"""Whom a node hosts, and their data: parts of the run's data set, or a file of the node's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from logging import getLogger

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from client.config import ClientConfig
from client.deployed.own_data import own_interactions, own_shard
from data import load, version_of
from data.digest import shard_digest
from data.interactions import Interactions
from data.partition import hosted_users, malicious_users, never_evaluated, partition
from data.public import public_part
from data.shard import Shard, load_shard
from data.texts import Texts
from models.recommenders.cohort import cohort_of
from protocol.requests import Agreement
from settings.options import require
from settings.run import RunOptions

Users = NDArray[np.int64]


@dataclass(frozen=True)
class Hosting:
    """The users of one node, whatever their data is.

    ``users`` (n,): indexes in the population, in ascending order; ``malicious`` (n,) bool; ``ids`` (n,): their original
    ids. ``num_users`` and ``num_items``: of the whole run; ``data_digest``: see ``Hosted``.
    """

    users: Users
    malicious: NDArray[np.bool_]
    ids: Texts
    num_users: int
    num_items: int
    data_digest: str


@dataclass(frozen=True)
class ShardHosting(Hosting):
    """With interactions: the users' ``shard``, and which of them count in an evaluation (n,)."""

    shard: Shard
    evaluated: NDArray[np.bool_]


def host_interactions(config: ClientConfig, agreement: Agreement | None) -> ShardHosting:
    """What a recommender's node holds; ``agreement``: which indexes the users and items of its own file have."""
    shard, malicious, ids, item_ids = _partition(config) if agreement is None else _own(config, agreement)
    digest = shard_digest(shard, ids, item_ids)
    _tell_of_saturated(shard)
    unseen = never_evaluated(shard.num_users, config.run.malicious_fraction, malicious_seed(config.run))
    evaluated = ~np.isin(shard.users, unseen) & (shard.valid >= 0) & (shard.test >= 0)
    return ShardHosting(shard.users, malicious, ids, shard.num_users, shard.num_items, digest, shard, evaluated)


def _tell_of_saturated(shard: Shard) -> None:
    """Say in the node's log who cannot be trained, because there is no negative for it."""
    candidates = shard.users[shard.num_examples + 2 >= shard.num_items]
    if len(candidates):
        cohort = cohort_of(shard, candidates)
        found = cohort.users[cohort.saturated]
        if len(found):
            text = (
                "%d users of this node touched every item: without a negative they have no pairs (the first: user %d)."
            )
            getLogger("flwr").warning(text, len(found), found[0])


def malicious_seed(run: RunOptions) -> int:
    """The seed that draws a run's malicious users, and with them whom no evaluation counts."""
    return run.seed if run.attacker_seed < 0 else run.attacker_seed


def all_malicious(num_users: int, config: ClientConfig) -> Users:
    """The malicious users of the whole population."""
    fraction = config.run.malicious_fraction if config.attacked else 0.0
    return malicious_users(num_users, fraction, malicious_seed(config.run))


def users_here(num_users: int, malicious: Users, config: ClientConfig, spread: bool = False) -> Users:
    """The users of a population that live on this node, in ascending order.

    All malicious users have one attacker, whose knowledge and draws would else depend on the number of nodes; with
    ``spread``, for attacks that each carries out alone, they have as many nodes as their share.
    """
    node = config.node
    if not node.role:
        attackers = round(len(malicious) / num_users * node.num_partitions) if spread else 1
        return hosted_users(num_users, malicious, node.partition_id, node.num_partitions, attackers)[0]
    kind = malicious if node.role == "attacker" else np.setdiff1d(np.arange(num_users), malicious)
    return partition(kind, node.num_partitions)[node.partition_id]


@lru_cache(maxsize=2)
def _interactions(dataset: str, data_dir: str | None, columns: str, version: tuple[int, int]) -> Interactions:
    return load(dataset, data_dir, columns)


def public_interactions(config: ClientConfig) -> tuple[Tensor, Tensor]:
    """Everybody's interactions that the run declares public. Raises ``OptionError`` where the node cannot know them."""
    run = config.run
    expected = "an attack that needs no public interactions: nodes with data of their own do not know the others'"
    require(not config.node.data, "attack", run.attack, expected)
    place = (run.dataset, config.data_dir, run.columns, version_of(run.dataset))
    return _public(place, run.public_share, run.seed)


@lru_cache(maxsize=1)
def _public(place: tuple[str, str | None, str, tuple[int, int]], share: float, seed: int) -> tuple[Tensor, Tensor]:
    return public_part(_interactions(*place), share, seed)


_Held = tuple[Shard, NDArray[np.bool_], Texts, Texts]


def _partition(config: ClientConfig) -> _Held:
    """The node's part of the run's data set, who is malicious (n,), the users' ids (n,), and all items' ids."""
    run = config.run
    interactions = _interactions(run.dataset, config.data_dir, run.columns, version_of(run.dataset))
    malicious = all_malicious(interactions.num_users, config)
    users = users_here(interactions.num_users, malicious, config)
    shard = load_shard(interactions, users)
    return shard, np.isin(users, malicious), interactions.user_ids[users], interactions.item_ids


def _own(config: ClientConfig, agreement: Agreement) -> _Held:
    """The same of the node's own data; an attacker's users are all malicious, a benign node's are none."""
    interactions = own_interactions(config)
    shard = own_shard(interactions, agreement)
    user_ids = interactions.user_ids[np.argsort(agreement.users.numpy())]
    if config.node.role:
        malicious = np.full(len(shard), config.attacked and config.node.role == "attacker")
    else:
        malicious = np.isin(shard.users, all_malicious(agreement.num_users, config))
    return shard, malicious, user_ids, interactions.item_ids
