"""MeaMed, the mean around the median (Xie, Koyejo and Gupta 2018): per coordinate, the values nearest to the median."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from protocol.updates import Gradient, Updates
from strategies.assumed_attackers import AssumedAttackers
from strategies.rule import Combiner, ServerView
from strategies.rules.bulyan import mean_around_median
from strategies.sparse.order_statistics import coordinate_wise


@dataclass(frozen=True)
class MeamedOptions(AssumedAttackers):
    """See ``AssumedAttackers``."""

    prefix: ClassVar[str] = "meamed"


class Meamed(Combiner):
    """Per coordinate, the plain mean of the n − f values nearest to the median of all n.

    A row that a user did not send is a row of zeros. In a round with 2f or fewer updates f is the largest number
    below their half.
    """

    name = "meamed"
    Options = MeamedOptions
    options: MeamedOptions

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        n, f = len(updates), self.options.assumed(len(updates))
        centre = partial(mean_around_median, total=n, count=n - f)
        # Where no more than f users touched an item, at least n − f values are zeros, and the median is one of them.
        return coordinate_wise(updates, server.model, centre, fewest=f + 1)
