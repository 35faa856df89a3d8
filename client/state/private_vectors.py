"""The users' private vectors with their Adam state: drawn at first, stepped when a user takes part, idle between.

For each user who took part the node's store has ``(p, m, v)``, the vector with Adam's moments, and the last round
in which it was stepped. Memory and time are those of the users who take part, however many the node hosts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import draws
from client.state.store import Store
from draws import Stream
from models import adam
from models.adam import Moments

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Vectors:
    """The state of n users: vectors (n, d), moments of the same shape, and the last round (n,) of each."""

    vectors: Tensor
    moments: Moments
    last: Tensor


def joined(parts: Sequence[Vectors]) -> Vectors:
    """The users of all parts, in order."""
    moments = [part.moments for part in parts]
    return Vectors(
        torch.cat([part.vectors for part in parts]),
        Moments(torch.cat([part.first for part in moments]), torch.cat([part.second for part in moments])),
        torch.cat([part.last for part in parts]),
    )


class PrivateVectors:
    """The vectors of users in one run, of whom the population has ``num_users``; ``store`` keeps them.

    A user who never took part has the vector drawn from (seed, user), Xavier-uniform for a (num_users, dim) table.
    """

    def __init__(self, store: Store, num_users: int, dim: int, seed: int) -> None:
        self._store = store
        self._bound = math.sqrt(6 / (num_users + dim))
        self._dim = dim
        self._seed = seed

    def at(self, users: Ints, before_round: int, learning_rate: float) -> Vectors:
        """The users' state as it stands when round ``before_round`` begins; nothing is written.

        Rounds since their last one are played with a zero gradient, as one dense Adam over all the users
        would have done.
        """
        with self._store.begin():
            kept, rounds = self._store.vectors(users, self._dim)
        values, last = torch.from_numpy(kept), torch.from_numpy(rounds)
        fresh = np.flatnonzero(rounds == 0)
        if len(fresh):
            values[fresh, 0] = torch.from_numpy(self._initial(users[fresh]))
        # Without momentum nothing moves: only those who took part are brought up to this round.
        moved = torch.from_numpy(np.flatnonzero(rounds))
        if len(moved):
            known = values[moved]
            moments = Moments(known[:, 1], known[:, 2])
            vectors, moments = adam.idle(known[:, 0], moments, last[moved], before_round - 1, learning_rate)
            values[moved] = torch.stack([vectors, moments.first, moments.second], 1)
        return Vectors(values[:, 0], Moments(values[:, 1], values[:, 2]), last)

    def step(self, users: Ints, state: Vectors, gradients: Tensor, server_round: int, learning_rate: float) -> None:
        """Step the users by their gradients (n, d) of this round, from ``state`` as ``at`` gave it, and keep it.

        The round must have been begun in the store, and steps its users once.
        """
        vectors, moments = adam.step(state.vectors, gradients, state.moments, server_round, learning_rate)
        values = torch.stack([vectors, moments.first, moments.second], 1).cpu().numpy()
        with self._store.begin():
            self._store.overwrite(server_round, users, values)

    def _initial(self, users: Ints) -> NDArray[np.float32]:
        words = draws.raw(self._seed, Stream.INITIAL_VECTOR, 0, users.tolist(), [self._dim] * len(users))
        uniform = draws.uniform(words).reshape(len(users), self._dim)
        return ((2 * uniform - 1) * self._bound).astype(np.float32)
