"""Nearest-neighbour mixing (Allouah et al. 2023): each update becomes the mean of those nearest to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from protocol.updates import Updates
from strategies.assumed_attackers import AssumedAttackers
from strategies.rule import ServerView, Verdict, Wrapper
from strategies.rules.krum import squared_distances
from strategies.sparse.mixtures import mixtures


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
        n, f = len(updates), self.options.assumed(len(updates))
        distances = squared_distances(updates, server.model.common)
        nearest = distances.topk(n - f, dim=1, largest=False)
        weights = torch.zeros_like(distances).scatter_(1, nearest.indices, 1 / (n - f))
        kept = torch.ones(n, dtype=torch.bool, device=updates.users.device)
        verdict = Verdict(self.name, updates.users, nearest.values.sum(1), kept, {"assumed_malicious": float(f)})
        return mixtures(updates, weights, updates.users, distances), verdict
