"""Sign flip (Li et al. 2019): each user's own honest update, turned round."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from attacks.attack import Attack
from attacks.updates.line_search import SEARCHED, AssumedRule, best_factor
from attacks.view import AttackerView
from protocol.updates import Updates
from settings.options import option

LARGEST_FACTOR = 100.0


@dataclass(frozen=True)
class SignFlipOptions:
    """Options of sign flip: the factor as it is set, or searched for (see ``line_search``)."""

    factor: float = option(1.0, "how many times as long as the honest update", above=0)
    assumed_rule: AssumedRule = option("none", SEARCHED)


class SignFlip(Attack):
    """A model attack: each user uploads its honest update times −factor, on the rows that it would have sent."""

    prefix = "sign-flip"
    Options = SignFlipOptions

    def poison(self, view: AttackerView) -> Updates:
        """Each selected user's own."""
        factor = self.options.factor
        if self.options.assumed_rule != "none":
            sample = view.sample_honest()
            factor = best_factor(view, sample, self.options.assumed_rule, turned_round, LARGEST_FACTOR)
        return replace(view.honest, rows=-factor * view.honest.rows, shared=-factor * view.honest.shared)


def turned_round(honest: Tensor, count: int, factor: float) -> Tensor:
    """(count, D): the first few of (n, D), again from the first where there are no more, times −factor."""
    return -factor * honest.repeat(-(-count // len(honest)), 1)[:count]
