"""Centered clipping (Karimireddy, He and Jaggi 2021): no update may pull further than a bound from the centre."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from protocol.updates import Gradient, Updates
from settings.options import option
from strategies.rule import Aggregate, Combiner, RuleOptions, ServerView, Verdict
from strategies.sparse.inner_products import combination, distances_to, inner_products, middle


@dataclass(frozen=True)
class CenteredClippingOptions(RuleOptions):
    """Options of centered clipping."""

    threshold: float = option(0.0, "τ: the furthest pull; 0: the median norm of the round's updates", at_least=0)
    iterations: int = option(3, "L: how often the centre moves", at_least=1)


class CenteredClipping(Combiner):
    """v ← v + (1/n) Σ_i (g_i − v) · min(1, τ/‖g_i − v‖), L times (Eq. 5 of the paper), each user counting once.

    The paper starts from the last round's aggregate, since its clients send momentum. Here every round starts from
    zero: other users take part in it, and touch other items. A user's score is its distance to the last centre but one.
    """

    name = "centered-clipping"
    Options = CenteredClippingOptions
    options: CenteredClippingOptions

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        return self.aggregate(updates, server).gradient

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        products = inner_products(updates, server.model)
        threshold = self.options.threshold or middle(products.diagonal().clamp(min=0).sqrt())
        weights, distances = clipped_centre(products, threshold, self.options.iterations)
        kept = torch.ones(len(updates), dtype=torch.bool, device=distances.device)
        notes = {"threshold": threshold, "clipped": float((distances > threshold).sum())}
        verdict = Verdict(self.name, updates.users, distances, kept, notes)
        return Aggregate(combination(updates, len(server.model.items), weights), (verdict,))


def clipped_centre(products: Tensor, threshold: float, iterations: int) -> tuple[Tensor, Tensor]:
    """The weights (n,) of the centre, and the distances (n,) to the centre before the last iteration."""
    weights = products.new_zeros(len(products))
    distances = weights
    for _ in range(iterations):
        distances = distances_to(products, weights)
        factors = (threshold / distances.clamp(min=torch.finfo(distances.dtype).tiny)).clamp(max=1)
        weights = weights * (1 - factors.mean()) + factors / len(factors)
    return weights, distances
