"""TrimmedMean (Yin et al. 2018): per coordinate, the mean without the largest and the smallest values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from protocol.updates import Gradient, Updates
from settings.options import option, require
from strategies.rule import AUTOMATIC, Combiner, RuleOptions, ServerView, assumed_attackers
from strategies.sparse.order_statistics import coordinate_wise_middle


@dataclass(frozen=True)
class TrimmedMeanOptions(RuleOptions):
    """Options of TrimmedMean, ``beta`` as Flower names it."""

    beta: float = option(
        -1.0,
        "the fraction to cut off of both tails; -1: as many values as there are assumed attackers",
        at_least=0,
        below=0.5,
        also=AUTOMATIC,
        expected="at least 0 and less than 0.5, or -1 to cut as many values as there are assumed attackers",
    )
    num_malicious_nodes: int = assumed_attackers()

    def settled(self, clients_per_round: int, num_malicious: int) -> Self:
        f = num_malicious if self.num_malicious_nodes == AUTOMATIC else self.num_malicious_nodes
        require(
            self.beta != AUTOMATIC or clients_per_round > 2 * f,
            "trimmed-mean-num-malicious-nodes",
            f,
            f"at most {max((clients_per_round - 1) // 2, 0)} with {clients_per_round} clients per round, "
            "since f values are cut at both ends",
        )
        return replace(self, num_malicious_nodes=f)

    def num_cut(self, num_values: int) -> int:
        """How many of so many values to cut at each end; one or two are always left."""
        cut = self.num_malicious_nodes if self.beta == AUTOMATIC else int(self.beta * num_values)
        return max(min(cut, (num_values - 1) // 2), 0)


class TrimmedMean(Combiner):
    """Per coordinate, drops the f largest and the f smallest of all n values; the plain mean of the rest.

    A row that a user did not send is a row of zeros. In a round with 2f or fewer updates as many are cut
    as leave one or two.
    """

    name = "trimmed-mean"
    Options = TrimmedMeanOptions
    options: TrimmedMeanOptions

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        cut = self.options.num_cut(len(updates))
        return coordinate_wise_middle(updates, server.model, cut, len(updates) - cut)
