"""IPM, inner product manipulation (Xie, Koyejo and Gupta 2019): the honest mean, turned round."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.attack import Attack
from attacks.updates.honest_statistics import Coordinates, honest_moments, poisoned_updates
from attacks.updates.line_search import SEARCHED, AssumedRule, best_factor
from attacks.view import AttackerView
from protocol.updates import Updates
from settings.options import option

LARGEST_FACTOR = 100.0


@dataclass(frozen=True)
class InnerProductOptions:
    """Options of IPM: ε as it is set, or searched for (see ``line_search``)."""

    factor: float = option(0.5, "ε: the upload's length in units of the mean's", above=0)
    assumed_rule: AssumedRule = option("none", SEARCHED)


class InnerProductManipulation(Attack):
    """A model attack: all users upload the same −ε·μ."""

    prefix = "ipm"
    Options = InnerProductOptions

    def poison(self, view: AttackerView) -> Updates:
        """The same update for every selected user."""
        sample = view.sample_honest()
        mean, _ = honest_moments(sample)
        factor = self.options.factor
        if self.options.assumed_rule != "none":
            factor = best_factor(view, sample, self.options.assumed_rule, turned_mean, LARGEST_FACTOR)
        return poisoned_updates(view.honest, Coordinates(mean.items, -factor * mean.rows, -factor * mean.shared))


def turned_mean(honest: Tensor, count: int, factor: float) -> Tensor:
    """(count, D): −ε times the mean of (n, D)."""
    return (-factor * honest.mean(0)).expand(count, -1)
