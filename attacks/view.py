"""What an attack may see: the threat model of the paper (§3.2), as an interface.

The attacker has the training code, the model and the data of its own malicious users. It never sees a
benign user's data or update, nor the server's rule: nothing here leads to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from metrics.ranked import Scores, products
from protocol.requests import GlobalModel, LossOptions, TrainRequest
from protocol.updates import Updates


@dataclass(frozen=True)
class TrainingPairs:
    """The pairs that honest clients would train on.

    ``splits`` (n+1,): user k has the pairs splits[k]:splits[k+1]; ``positives``, ``negatives`` (N,) item
    ids; ``user_vectors`` (n, d): what ``scores_of`` scores the items of ``table`` (num_items, d) with. ``history``: all
    the items that the users interacted with in training, as offsets (n+1,) and items, where that is more than the
    positives. ``users`` (n,): who they are, for a model whose users keep private vectors.
    """

    splits: Tensor
    positives: Tensor
    negatives: Tensor
    user_vectors: Tensor
    table: Tensor
    history: tuple[Tensor, Tensor] | None = None
    users: Tensor | None = None
    scores_of: Scores = products

    @property
    def scores(self) -> Tensor:
        """(n, num_items): how highly the model scores every item for each user."""
        return self.scores_of(self.table, self.user_vectors.to(self.table.device))


Alteration = Callable[[Any], Any]
"""What an attack puts in place of honest training. A recommender's training shows it the users' ``TrainingPairs`` and
takes other positives and negatives (N,) to train on; a classifier's shows it one ``ImageClient`` after another
and takes what that client uploads (p,)."""


def for_users(alter: Alteration, users: Tensor) -> Alteration:
    """An alteration of recommenders' pairs for some ``users`` alone: all others keep their pairs.

    So do all users of a model without private vectors.
    """

    def alter_some(pairs: TrainingPairs) -> tuple[Tensor, Tensor]:
        if pairs.users is None:
            return pairs.positives, pairs.negatives
        altered = torch.isin(pairs.users, users).repeat_interleave(pairs.splits.diff())
        positives, negatives = alter(pairs)
        return (
            torch.where(altered, positives, pairs.positives),
            torch.where(altered, negatives, pairs.negatives),
        )

    return alter_some


Reading = Literal["text", "program"]
"""Which of two attacks of one name is meant: the one that the paper cites, or what its authors' first program does."""

READINGS = "text: as the paper it is from says; program: as the first program of ClusterAttack's authors does"
"""What the option ``reading`` of an attack means."""


class HonestTraining(Protocol):
    """Honest training of controlled users, which leaves their private vectors alone."""

    def __call__(self, users: Tensor, alter: Alteration | None = None, loss: LossOptions | None = None) -> Updates:
        """The updates (in ascending order of user), altered or with another loss where one is given.

        Raises ``ValueError`` for users that the attacker does not control.
        """


ModelScores = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Scores (n, num_items) by the item table (num_items, d), the shared parameters (p,) and n user vectors (n, d)."""


def row_products(table: Tensor, shared: Tensor, vectors: Tensor) -> Tensor:
    """The scores of a model that multiplies user vectors with item rows."""
    return vectors @ table.T


@dataclass(frozen=True)
class AttackerView:
    """One round as the attacker sees it.

    ``model``: the global model it was sent; ``selected`` (k,): its users in this round's cohort; ``honest``:
    their honest updates, in the same order; ``controlled`` (m,): all the users it controls, ``num_users`` in
    the whole population; ``clients_per_round``: the cohort's size; ``train``: see ``HonestTraining``;
    ``generator`` depends on (seed, round) alone; ``scores``: the model's, which the training code has. What the attack
    promotes stands in ``request.targets``. ``public``: each user's interactions that the run declares public, as
    offsets (num_users + 1,) and items, for an attack that says that it knows them.
    """

    request: TrainRequest
    model: GlobalModel
    selected: Tensor
    honest: Updates
    controlled: Tensor
    num_users: int
    clients_per_round: int
    generator: np.random.Generator
    train: HonestTraining
    scores: ModelScores = row_products
    public: tuple[Tensor, Tensor] | None = None

    @property
    def expected_malicious(self) -> int:
        """How many of a cohort this attacker expects to control: its share of the users, rounded up."""
        # Rounded first: a share that a float holds a little too large must not count as one user more.
        share = len(self.controlled) / self.num_users
        return max(1, math.ceil(round(self.clients_per_round * share, 9)))

    def sample_honest(self, loss: LossOptions | None = None, most: int = 50) -> Updates:
        """The honest updates of up to ``most`` of the controlled users, chosen at random; by another loss if given."""
        users = self.controlled
        if len(users) > most:
            chosen = self.generator.choice(len(users), most, replace=False)
            users = users[np.sort(chosen)]
        return self.train(users, loss=loss)
