"""Which users and items a run knows: what the ids of nodes with data of their own are looked up in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.texts import Texts
from protocol.own_data import bytes_of_ids
from protocol.requests import Agreement, OwnIds

NAMED, LONGEST_NAME = 5, 30
"""How many unknown ids an error names, and how much of each."""


class UnknownIdsError(ValueError):
    """A node has data of users or items that the run does not know; the text names some."""


@dataclass(frozen=True)
class Catalogue:
    """The original ids of all users (U,) and items (I,) of the run's data set, in the order of their indexes.

    ``digest_of``: users (n,) to the digest of what a node that hosts them must hold; ``None`` for data without one.
    """

    user_ids: Texts
    item_ids: Texts
    digest_of: Callable[[NDArray[np.int64]], str] | None = None

    @property
    def most_bytes(self) -> tuple[int, int]:
        """Of the lists of users and of items that a node may send."""
        users, items = (bytes_of_ids(len(ids), len(ids.letters)) for ids in (self.user_ids, self.item_ids))
        return users, items

    def agree(self, own: OwnIds) -> Agreement:
        """The indexes of a node's ids. Raises ``UnknownIdsError``."""
        users = _indexes(own.users, self._users, "users")
        items = _indexes(own.items, self._items, "items")
        return Agreement(users, items, len(self.user_ids), len(self.item_ids))

    @cached_property
    def _users(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.user_ids)}

    @cached_property
    def _items(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.item_ids)}


def _indexes(ids: Sequence[str], known: Mapping[str, int], kind: str) -> Tensor:
    _refuse([name for name in ids if name not in known], kind)
    return torch.tensor([known[name] for name in ids], dtype=torch.int64)


def _refuse(unknown: Sequence[str], kind: str) -> None:
    if unknown:
        names = ", ".join(repr(name[:LONGEST_NAME]) for name in unknown[:NAMED])
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise UnknownIdsError(f"its data has {kind} that the run's data set does not have: {names}{more}")
