"""FoolsGold (Fung, Yoon and Beschastnikh 2020): users whose updates resemble each other count less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from protocol.updates import Gradient, Updates
from settings.options import option
from strategies.rule import Aggregate, Combiner, RuleOptions, ServerView, Verdict
from strategies.sparse.inner_products import combination, cosines, inner_products

MOST = 0.99
"""The weight that counts as 1 before the logit, which has no value there; as in the authors' program."""


@dataclass(frozen=True)
class FoolsGoldOptions(RuleOptions):
    """Options of FoolsGold."""

    confidence: float = option(1.0, "κ: how sharply similar users are told from others", above=0)


class FoolsGold(Combiner):
    """Σ α_i g_i / Σ α_i, where α_i is small for a user whose update is similar to another's (Algorithm 1).

    The paper adds up each user's updates over the rounds; here a round is judged by itself, since a user of a large
    population hardly ever comes twice. A user's score is 1 − α; with a weight of 0 it counts as dropped. Where all
    weights are 0 everybody counts alike.
    """

    name = "fools-gold"
    Options = FoolsGoldOptions
    options: FoolsGoldOptions

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        return self.aggregate(updates, server).gradient

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        weights = fools_gold_weights(cosines(inner_products(updates, server.model)), self.options.confidence)
        if not bool(weights.any()):
            weights = torch.ones_like(weights)
        notes = {"mean_weight": float(weights.mean())}
        verdict = Verdict(self.name, updates.users, 1 - weights, weights > 0, notes)
        gradient = combination(updates, len(server.model.items), weights / weights.sum())
        return Aggregate(gradient, (verdict,))


def fools_gold_weights(similarities: Tensor, confidence: float) -> Tensor:
    """(n,) the weights α in [0, 1], from cosine similarities (n, n). Negative similarities count as 0."""
    others = similarities.clamp(min=0).fill_diagonal_(0)
    closest = others.amax(1)
    # Pardoning: an honest user that resembles one of several attackers is less like others than they are.
    ratio = closest.unsqueeze(1) / closest.clamp(min=torch.finfo(closest.dtype).tiny)
    weights = 1 - (others * ratio.clamp(max=1)).amax(1)
    highest = float(weights.max())
    if highest <= 0:
        return torch.zeros_like(weights)
    weights = (weights / highest).clamp(0, MOST)
    return (confidence * (torch.log(weights / (1 - weights)) + 0.5)).clamp(0, 1)
