"""Nearest-neighbour mixing (Allouah et al. 2023): each update becomes the mean of those nearest to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from protocol.updates import Updates
from strategies.assumed_attackers import AssumedAttackers
from strategies.rule import Aggregate, Mean, ServerView, Verdict, Wrapper
from strategies.rules.krum import squared_distances
from strategies.sparse.inner_products import combination
from strategies.sparse.mixtures import mean_examples, mixtures


@dataclass(frozen=True)
class MixingOptions(AssumedAttackers):
    """See ``AssumedAttackers``."""

    prefix: ClassVar[str] = "nnm"


class NearestNeighborMixing(Wrapper):
    """Replaces each of n updates by the plain mean of the n − f nearest ones, itself among them (NNM, Algorithm 2).

    It stands in front of a robust rule, as ``nnm+trimmed-mean``. Mixtures have rows for all items that their members
    touched, and their members' mean number of examples. A user's score is the sum of the squared distances to its
    neighbours; nobody is dropped. In a round with 2f or fewer updates f is the largest number below their half.
    """

    name = "nnm"
    Options = MixingOptions
    options: MixingOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        weights, verdict = self._weights(updates, server)
        return mixtures(updates, weights, updates.users), verdict

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        if type(self.inner) is not Mean:
            return super().aggregate(updates, server)
        # The mean of mixtures is itself a mixture: it is taken of their weights, and no mixture is made.
        weights, verdict = self._weights(updates, server)
        nothing = Updates(
            users=updates.users,
            num_examples=mean_examples(updates, weights),
            row_splits=torch.zeros_like(updates.row_splits),
            items=updates.items[:0],
            rows=updates.rows[:0],
            shared=weights,
            l2_share=torch.ones_like(weights[0]),
        )
        share = self.inner.combine(nothing, server).shared
        return Aggregate(combination(updates, len(server.model.items), share), (verdict,))

    def _weights(self, updates: Updates, server: ServerView) -> tuple[Tensor, Verdict]:
        """(n, n) what each update counts in each mixture."""
        n, f = len(updates), self.options.assumed(len(updates))
        nearest = squared_distances(updates, server.model.common).topk(n - f, dim=1, largest=False)
        weights = torch.zeros(n, n, dtype=torch.float64, device=updates.users.device)
        weights.scatter_(1, nearest.indices, 1 / (n - f))
        kept = torch.ones(n, dtype=torch.bool, device=updates.users.device)
        verdict = Verdict(self.name, updates.users, nearest.values.sum(1), kept, {"assumed_malicious": float(f)})
        return weights, verdict
