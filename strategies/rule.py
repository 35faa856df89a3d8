"""What a robust rule is: updates in, one gradient out, and a verdict about every user on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from protocol.updates import Gradient, Updates
from settings.options import option
from strategies.server_model import ServerModel


@dataclass(frozen=True)
class ServerView:
    """What a rule may look at beside the updates.

    ``clients_per_round``: how many users were asked. ``generator`` depends on (seed, round) alone.
    ``accuracy``: shared parameters (p,) to accuracy on the server's validation set, where there is one; ``own_update``:
    the update (p,) that training on that set gives from the round's model.
    """

    server_round: int
    model: ServerModel
    clients_per_round: int
    generator: np.random.Generator
    accuracy: Callable[[Tensor], float] | None = None
    own_update: Callable[[], Tensor] | None = None


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


AUTOMATIC = -1
"""A rule's ``num_malicious_nodes`` where the run says how many to assume; outside a run it counts as 0."""


def assumed_attackers() -> int:
    """Declare ``num_malicious_nodes``, the number f of attackers that a rule assumes in a round."""
    return option(
        AUTOMATIC,
        "the attackers assumed in a round; -1: as many as the run expects",
        at_least=AUTOMATIC,
        expected="at least 0, or -1 for the number that the run expects",
    )


class NobodyLeftError(RuntimeError):
    """A chain of rules dropped everybody, so that there is nothing to step with; ``verdicts``: outermost rule first."""

    def __init__(self, verdicts: tuple[Verdict, ...]) -> None:
        super().__init__(f"{verdicts[-1].rule} dropped everybody whom it saw")
        self.verdicts = verdicts


@dataclass(frozen=True)
class RuleOptions:
    """A group of options of a rule: what a rule without options has, and what those of the others may extend."""

    def settled(self, clients_per_round: int, num_malicious: int) -> Self:
        """These options with every "automatic" value replaced, now that the run is known.

        ``num_malicious`` is how many malicious users the run lets a rule assume in a round. Raises
        ``OptionError`` where the options ask for more than so many users can give.
        """
        return self


class Rule(ABC):
    """One defense, or a chain of them from the outermost inwards.

    ``name`` stands in verdicts; ``prefix`` in front of the rule's options (``name`` where it is empty);
    ``Options`` is the frozen dataclass of these options. ``needs``: what beside updates the rule cannot work without,
    if not every model offers it (see ``models.ModelCard``).
    """

    name: ClassVar[str]
    needs: ClassVar[str] = ""
    prefix: ClassVar[str] = ""
    Options: ClassVar[type] = RuleOptions
    options: Any

    @abstractmethod
    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        """Combine the updates of at least one user. Raises ``NobodyLeftError`` where the rules drop everybody."""

    def state(self) -> dict[str, Any]:
        """What must survive until the next round, as JSON; the rules here judge every round by itself."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave; a rule without state has nothing to go on from."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but was given {sorted(state)}.")


class Combiner(Rule):
    """A rule that ends a chain: it makes one gradient of all the updates that it gets."""

    def __init__(self, options: Any = None) -> None:
        self.options = self.Options() if options is None else options

    @abstractmethod
    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        """One gradient of the updates of at least one user."""

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        return Aggregate(self.combine(updates, server))


@dataclass(frozen=True)
class MeanOptions(RuleOptions):
    """How much one user may weigh."""

    weight_bound: float = option(
        2.0,
        "behind another rule nobody weighs more than so many times the cohort's median; 0: no bound",
        at_least=1,
        also=0,
        expected="at least 1, or 0 for no bound",
    )


class Mean(Combiner):
    """FedAvg's mean, weighted by the number of examples (McMahan et al. 2017): Σ w_u g_u / Σ w_u with w_u = n_u.

    A user states n_u itself. In a chain behind other rules, which makes this rule with its options, w_u is therefore
    min(n_u, b · median(n)) of the users that are left; without options it is the plain mean, which believes everybody.
    """

    name = "mean"
    Options = MeanOptions
    options: MeanOptions

    def __init__(self, options: MeanOptions | None = None) -> None:
        super().__init__(MeanOptions(0.0) if options is None else options)

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        weights, bound = updates.num_examples, self.options.weight_bound
        if bound:
            weights = weights.clamp(max=int(bound * float(weights.median())))
        return updates.weighted_mean(len(server.model.items), weights)


class Wrapper(Rule):
    """A rule that changes what the next rule, ``inner`` (the mean unless given), sees: it drops or shrinks updates."""

    def __init__(self, inner: Rule | None = None, options: Any = None) -> None:
        self.inner = inner or Mean()
        self.options = self.Options() if options is None else options

    def state(self) -> dict[str, Any]:
        """See ``Rule``; a wrapper with a state of its own adds it to that of ``inner``."""
        return self.inner.state()

    def restore(self, state: dict[str, Any]) -> None:
        """See ``Rule``."""
        self.inner.restore(state)

    @abstractmethod
    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        """The updates that the next rule may see, and what this rule thought of each user."""

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        left, verdict = self.judge(updates, server)
        return self.hand_on(left, server, verdict)

    def hand_on(
        self,
        left: Updates,
        server: ServerView,
        verdict: Verdict,
        translated: Callable[[Verdict], Verdict] = lambda behind: behind,
    ) -> Aggregate:
        """What ``inner`` makes of the updates that are left, with this rule's verdict in front of those behind it.

        ``translated``: from a verdict on what this rule hands on to one on the users whom it saw.
        """
        if not len(left):
            raise NobodyLeftError((verdict,))
        try:
            result = self.inner.aggregate(left, server)
        except NobodyLeftError as error:
            raise NobodyLeftError((verdict, *map(translated, error.verdicts))) from None
        return replace(result, verdicts=(verdict, *map(translated, result.verdicts)))
