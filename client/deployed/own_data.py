"""A node with data of its own: the ids in its file, and its users' shard once the server has said their indexes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from client.config import ClientConfig
from client.deployed.public_errors import own_data_error
from client.state.store import Store
from data import load, version_of
from data.interactions import Interactions, ragged_positions, split_last_two, splits_of
from data.shard import Shard
from protocol.requests import Agreement, OwnIds
from settings.options import OptionError
from settings.paths import absolute


def own_ids(config: ClientConfig) -> OwnIds:
    """The ids of the users and items in the node's file. Raises ``OptionError``."""
    interactions = own_interactions(config)
    return OwnIds(tuple(interactions.user_ids.tolist()), tuple(interactions.item_ids.tolist()))


def own_interactions(config: ClientConfig) -> Interactions:
    """What is in the node's file."""
    path, columns = str(absolute("data", config.node.data)), config.node.columns
    try:
        return _read(path, config.data_dir, columns, version_of(path))
    except OptionError as error:
        raise own_data_error(error) from error


def ids_digest(own: OwnIds) -> str:
    """What tells other lists of users or items from these, though they may be as long."""
    return hashlib.sha256(json.dumps([own.users, own.items]).encode()).hexdigest()


@lru_cache(maxsize=2)
def _read(path: str, data_dir: str | None, columns: str, version: tuple[int, int]) -> Interactions:
    return load(path, data_dir, columns)


def own_shard(interactions: Interactions, agreement: Agreement) -> Shard:
    """The users of the node's file under the indexes that they and their items have in the run.

    The file must hold those that were agreed on (see ``ids_digest``).
    """
    users, item_indexes = agreement.users.numpy(), agreement.items.numpy()
    order = np.argsort(users)
    starts, counts = interactions.splits[order], np.diff(interactions.splits)[order]
    items = item_indexes[interactions.items[ragged_positions(starts, counts)]].astype(np.int32)
    split = split_last_two(agreement.num_items, splits_of(counts), items)
    return Shard(
        users=users[order],
        train_splits=split.train_splits,
        train_items=split.train_items,
        valid=split.valid,
        test=split.test,
        num_items=agreement.num_items,
        num_users=agreement.num_users,
    )


@dataclass(frozen=True)
class Agreed:
    """What was agreed in a run, on which ids (see ``ids_digest``)."""

    agreement: Agreement
    digest: str

    def require_same(self, config: ClientConfig) -> None:
        """Raise ``OptionError`` where the node's file has other users or items by now."""
        if ids_digest(own_ids(config)) != self.digest:
            raise OptionError(
                "data, in this node's configuration: its users or items have changed since the run began."
            )


def keep_agreement(agreed: Agreed, store: Store) -> None:
    """In the node's store, because the next message of the run may meet another process; called in a transaction."""
    agreement = agreed.agreement
    content = {
        "ids": agreed.digest,
        "users": agreement.users.tolist(),
        "items": agreement.items.tolist(),
        "num-users": agreement.num_users,
        "num-items": agreement.num_items,
    }
    text = json.dumps(content)
    store.keep_note("agreement", text)
    store.keep_note("agreement-digest", hashlib.sha256(text.encode()).hexdigest())


def agreement_digest(store: Store) -> str | None:
    """What tells another agreement from this one, ``None`` where nothing was agreed."""
    found: str | None = store.note("agreement-digest")
    return found


def kept_agreement(store: Store) -> Agreed:
    """The inverse of ``keep_agreement``. Raises ``OptionError`` where nothing was agreed in this run."""
    text = store.note("agreement")
    if text is None:
        raise OptionError(
            "The node's state does not say which indexes its users have: the node must keep its state-dir during a run."
        )
    content = json.loads(text)
    users, items = (torch.tensor(content[name], dtype=torch.int64) for name in ("users", "items"))
    return Agreed(Agreement(users, items, content["num-users"], content["num-items"]), content["ids"])
