"""What one kind of recommender brings to a run: its first parameters, its loss's gradient, and its user vectors.

Everything else is the same for all of them: a node finds the histories, draws the pairs, keeps private vectors and
makes updates of the gradients (``client/learners/recommender.py``), the server starts with the first parameters.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

import draws
from draws import Stream
from models import MODELS
from models.recommenders.cohort import Cohort, contrastive_draws, negative_items
from models.recommenders.contrastive import ContrastiveDraws
from models.recommenders.loss import LossOptions
from settings.options import require
from settings.plugins import load_class
from settings.run import RunOptions


@dataclass(frozen=True)
class Training:
    """What n users train with in one round.

    ``cohort``: their histories, N training items in all; ``positives`` and ``negatives`` (N,) int64: the pair at each
    item. ``vectors`` (n, d): the users' private vectors as the round begins, (n, 0) for a model without.
    Random numbers depend on (``seed``, ``server_round``, user) alone.
    """

    cohort: Cohort
    positives: Tensor
    negatives: Tensor
    vectors: Tensor
    loss: LossOptions
    seed: int
    server_round: int

    @classmethod
    def honest(cls, cohort: Cohort, vectors: Tensor, loss: LossOptions, seed: int, server_round: int) -> Self:
        """Pair each training item with one that its user never touched."""
        negatives = torch.from_numpy(negative_items(cohort, loss, seed, server_round))
        return cls(cohort, torch.from_numpy(cohort.items), negatives, vectors, loss, seed, server_round)

    def contrastive(self, table: Tensor) -> ContrastiveDraws | None:
        """Draw for UNION's task on the item ``table`` (num_items, d); ``None`` where the run does without."""
        found = contrastive_draws(self.cohort, self.loss, self.seed, self.server_round, table.shape[1])
        return None if found is None else found.to(table.device)


@dataclass(frozen=True)
class CohortGradient:
    """The gradients of n users, in the order in which the users came.

    ``num_pairs`` (n,) int64: how many pairs a user's loss is the mean of; ``losses`` (n,); user k's item rows
    are ``row_splits[k]:row_splits[k+1]`` (n+1,) of ``items`` (r,), strictly increasing within a user, and
    ``rows`` (r, d): ∂L_k/∂e_item; ``shared`` (n, p): ∂L_k/∂shared; ``vectors`` (n, d) or (n, 0): ∂L_k/∂p_k of the
    private vector.
    """

    num_pairs: Tensor
    losses: Tensor
    row_splits: Tensor
    items: Tensor
    rows: Tensor
    shared: Tensor
    vectors: Tensor


class Recommender(ABC):
    """One kind of recommender, which scores items for a user by a user vector, the item table and what else is shared.

    ``private_vectors``: whether each user has a vector of parameters that never leaves its node. ``unpaired``: how many
    of a user's oldest training items are input alone, so that what is paired with them is not used. ``newest``: how
    many of a user's newest training items count, ``None``: all.
    """

    private_vectors: ClassVar[bool] = False
    unpaired: ClassVar[int] = 0
    newest: int | None = None

    @classmethod
    def of_run(cls, options: RunOptions) -> Self:
        """The recommender with the run's options; here of one that has none."""
        return cls()

    def initial(self, num_items: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draw the item table (num_items, dim) and the shared parameters (p,) before the first round; here p = 0."""
        return xavier_table(num_items, dim, seed), torch.empty(0)

    @abstractmethod
    def gradient(self, table: Tensor, shared: Tensor, training: Training) -> CohortGradient:
        """Compute each user's gradient of its own loss, without L2 term, at ``table`` (num_items, d), ``shared`` (p,).

        The loss has UNION's contrastive term where ``training.contrastive`` gives draws for it. A user's numbers must
        not depend on who else is in the cohort. A user without pairs has loss 0, no rows and gradients of 0.
        """

    @abstractmethod
    def user_vectors(
        self, table: Tensor, shared: Tensor, cohort: Cohort, vectors: Tensor, after_valid: bool = False
    ) -> Tensor:
        """What items are scored with for the users (n, d) of a cohort.

        ``vectors``: as in ``Training``; ``after_valid``: whether the users have seen their validation items, too.
        """

    def scores(self, table: Tensor, shared: Tensor, vectors: Tensor) -> Tensor:
        """(n, num_items): how highly all items score for n user vectors (n, d); here their products with the rows.

        Autograd can differentiate it by each of the three.
        """
        return vectors @ table.T


def make_recommender(options: RunOptions) -> Recommender:
    """The recommender of a run; raises ``OptionError`` where the run's model is none."""
    names = [name for name, card in MODELS.items() if card.task == "recommendation"]
    require(options.model in names, "model", options.model, "one of " + ", ".join(names))
    return load_class("model", MODELS[options.model].place, Recommender).of_run(options)  # type: ignore[type-abstract]


def xavier_table(num_items: int, dim: int, seed: int) -> Tensor:
    """Xavier-uniform (num_items, dim), as torch's ``xavier_uniform_`` draws it for a table of this shape."""
    bound = math.sqrt(6 / (num_items + dim))
    table = draws.generator(seed, Stream.INITIAL_MODEL).uniform(-bound, bound, (num_items, dim))
    return torch.from_numpy(table).to(torch.float32)
