"""A node with data of its own: the ids in its file, and its users' shard once the server has said their indexes."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from client.config import ClientConfig
from data import load
from data.interactions import Interactions, ragged_positions, split_last_two, splits_of
from data.shard import Shard
from protocol.options import OptionError
from protocol.requests import Agreement, OwnIds


def own_ids(config: ClientConfig) -> OwnIds:
    """The ids of the users and items in the node's file. Raises ``OptionError``."""
    interactions = own_interactions(config)
    return OwnIds(tuple(interactions.user_ids.tolist()), tuple(interactions.item_ids.tolist()))


def own_interactions(config: ClientConfig) -> Interactions:
    """What is in the node's file."""
    return _read(str(Path(config.node.data).expanduser().absolute()), config.data_dir)


@lru_cache(maxsize=2)
def _read(path: str, data_dir: str | None) -> Interactions:
    try:
        return load(path, data_dir)
    except OptionError as error:
        raise OptionError(f"data = {path!r}, of this node's configuration: {error}") from error


def own_shard(interactions: Interactions, agreement: Agreement) -> Shard:
    """The users of the node's file under the indexes that they and their items have in the run.

    Raises ``OptionError`` where the file holds others than those that were agreed on.
    """
    users, item_indexes = agreement.users.numpy(), agreement.items.numpy()
    if len(users) != interactions.num_users or len(item_indexes) != interactions.num_items:
        raise OptionError(
            f"{interactions.name} has changed since the run began: it holds {interactions.num_users} users and "
            f"{interactions.num_items} items, agreed were {len(users)} and {len(item_indexes)}."
        )
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


def keep_agreement(agreement: Agreement, path: Path) -> None:
    """On disk, because the next message of the run may meet another process."""
    content = {
        "users": agreement.users.tolist(),
        "items": agreement.items.tolist(),
        "num-users": agreement.num_users,
        "num-items": agreement.num_items,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)


def kept_agreement(path: Path) -> Agreement:
    """The inverse of ``keep_agreement``. Raises ``OptionError`` where nothing was agreed in this run."""

    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{path} does not say which indexes this node's users have: the node must keep its state-dir during a run."
        ) from error
    users, items = (torch.tensor(content[name], dtype=torch.int64) for name in ("users", "items"))
    return Agreement(users, items, content["num-users"], content["num-items"])
