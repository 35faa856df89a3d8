"""Median (Yin et al. 2018): per coordinate, the middle value."""

from __future__ import annotations

from functools import partial

from protocol.updates import Gradient, Updates
from strategies.rule import Combiner, ServerView
from strategies.sparse.order_statistics import coordinate_wise, middle_mean


class Median(Combiner):
    """The median of all n values of each coordinate, unweighted; for an even n the mean of the middle two.

    A row that a user did not send is a row of zeros, so that an item which fewer than half of the users
    touched gets nothing but the L2 term.
    """

    name = "median"

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        n = len(updates)
        low, high = (n - 1) // 2, n // 2 + 1
        return coordinate_wise(updates, server.model, partial(middle_mean, total=n, low=low, high=high), fewest=low + 1)
