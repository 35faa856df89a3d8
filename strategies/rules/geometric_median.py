"""The geometric median as RFA computes it (Pillutla, Kakade and Harchaoui 2022): least in the sum of distances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from protocol.updates import Gradient, Updates
from settings.options import option
from strategies.rule import Aggregate, Combiner, RuleOptions, ServerView, Verdict
from strategies.sparse.inner_products import combination, distances_to, inner_products


@dataclass(frozen=True)
class GeometricMedianOptions(RuleOptions):
    """Options of the geometric median."""

    iterations: int = option(3, "of Weiszfeld's algorithm", at_least=1)
    smoothing: float = option(1e-6, "ν: smaller distances count as this one", above=0)


class GeometricMedian(Combiner):
    """The smoothed Weiszfeld algorithm (RFA, Algorithm 2), from the zero update on, each user counting once.

    The paper weighs users by their numbers of examples, which an attacker may invent. A user's score is its
    distance to the result; nobody is dropped.
    """

    name = "geometric-median"
    Options = GeometricMedianOptions
    options: GeometricMedianOptions

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        return self.aggregate(updates, server).gradient

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        products = inner_products(updates, server.model)
        weights = weiszfeld(products, self.options.iterations, self.options.smoothing)
        distances = distances_to(products, weights)
        kept = torch.ones(len(updates), dtype=torch.bool, device=distances.device)
        notes = {"mean_distance": float(distances.mean()), "max_distance": float(distances.max())}
        verdict = Verdict(self.name, updates.users, distances, kept, notes)
        return Aggregate(combination(updates, len(server.model.items), weights), (verdict,))


def weiszfeld(products: Tensor, iterations: int, smoothing: float) -> Tensor:
    """(n,) the weights of the geometric median after some iterations, from inner products (n, n).

    w_i ∝ 1 / max(ν, ‖g_i − z‖), where z is the point of the weights before, at first zero.
    """
    weights = products.new_zeros(len(products))
    for _ in range(iterations):
        closeness = 1 / distances_to(products, weights).clamp(min=smoothing)
        weights = closeness / closeness.sum()
    return weights
