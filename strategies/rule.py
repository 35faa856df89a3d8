"""What a robust rule is: updates in, one gradient out, and a verdict about every user on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from protocol.updates import Gradient, Updates
from strategies.server_model import ServerModel


@dataclass(frozen=True)
class ServerView:
    """What a rule may look at beside the updates.

    ``clients_per_round``: how many users were asked. ``generator`` depends on (seed, round) alone.
    """

    server_round: int
    model: ServerModel
    clients_per_round: int
    generator: np.random.Generator


@dataclass(frozen=True)
class Verdict:
    """What one rule thought of the users it saw.

    ``users`` (n,) int64; ``scores`` (n,): the higher, the more suspicious; ``kept`` (n,) bool; ``notes``:
    a few numbers about the round for the log.
    """

    rule: str
    users: Tensor
    scores: Tensor
    kept: Tensor
    notes: dict[str, float]


@dataclass(frozen=True)
class Aggregate:
    """The outcome of a round: the gradient to step with, and the verdicts, outermost rule first."""

    gradient: Gradient
    verdicts: tuple[Verdict, ...] = ()


class Rule(ABC):
    """One defense, or a chain of them from the outermost inwards."""

    name: str

    @abstractmethod
    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        """Combine the updates of at least one user."""


class Combiner(Rule):
    """A rule that ends a chain: it makes one gradient of all the updates that it gets."""

    @abstractmethod
    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        """One gradient of the updates of at least one user."""

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        return Aggregate(self.combine(updates, server))


class Mean(Combiner):
    """FedAvg's mean, weighted by the number of examples (McMahan et al. 2017): Σ n_u g_u / Σ n_u."""

    name = "mean"

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        return updates.weighted_mean(len(server.model.items))


class Wrapper(Rule):
    """A rule that changes what the next rule sees: it drops or shrinks updates."""

    def __init__(self, inner: Rule | None = None) -> None:
        self.inner = inner or Mean()

    @abstractmethod
    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        """The updates that the next rule may see, and what this rule thought of each user.

        At least one user must be left.
        """

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        left, verdict = self.judge(updates, server)
        result = self.inner.aggregate(left, server)
        return replace(result, verdicts=(verdict, *result.verdicts))
