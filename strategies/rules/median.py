"""Median (Yin et al. 2018): per coordinate, the middle value."""

from __future__ import annotations

from protocol.updates import Gradient, Updates
from strategies.rule import Combiner, ServerView
from strategies.sparse.order_statistics import coordinate_wise_middle


class Median(Combiner):
    """The median of all n values of each coordinate, unweighted; for an even n the mean of the middle two.

    A row that a user did not send is a row of zeros, so that an item which fewer than half of the users
    touched gets nothing but the L2 term.
    """

    name = "median"

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        n = len(updates)
        return coordinate_wise_middle(updates, server.model, (n - 1) // 2, n // 2 + 1)
