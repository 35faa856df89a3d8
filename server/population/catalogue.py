"""Which users and items a run knows: what the ids of nodes with data of their own are looked up in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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

    user_ids: NDArray[np.str_]
    item_ids: NDArray[np.str_]
    digest_of: Callable[[NDArray[np.int64]], str] | None = None

    @property
    def most_bytes(self) -> tuple[int, int]:
        """Of the lists of users and of items that a node may send."""
        users, items = (bytes_of_ids(len(ids), _longest(ids)) for ids in (self.user_ids, self.item_ids))
        return users, items

    def agree(self, own: OwnIds) -> Agreement:
        """The indexes of a node's ids. Raises ``UnknownIdsError``."""
        users = _indexes(own.users, self.user_ids, "users")
        items = _indexes(own.items, self.item_ids, "items")
        return Agreement(users, items, len(self.user_ids), len(self.item_ids))


def _indexes(ids: Sequence[str], known: NDArray[np.str_], kind: str) -> Tensor:
    _refuse([name for name in ids if len(name) > _longest(known)], kind)
    wanted = np.array(ids, np.str_)
    order = np.argsort(known, kind="stable")
    found = np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)
    indexes = order[found]
    _refuse(wanted[known[indexes] != wanted].tolist(), kind)
    return torch.from_numpy(indexes)


def _longest(known: NDArray[np.str_]) -> int:
    """Letters: an array of strings has room for the longest of them in each."""
    return known.dtype.itemsize // np.dtype("U1").itemsize if len(known) else 0


def _refuse(unknown: Sequence[str], kind: str) -> None:
    if unknown:
        names = ", ".join(repr(name[:LONGEST_NAME]) for name in unknown[:NAMED])
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise UnknownIdsError(f"its data has {kind} that the run's data set does not have: {names}{more}")
