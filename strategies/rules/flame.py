"""FLAME (Nguyen et al. 2022): drop outlying directions, clip to the median norm, and blur with a little noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from protocol.updates import Gradient, Updates
from settings.options import option
from strategies.rule import Aggregate, RuleOptions, ServerView, Verdict, Wrapper
from strategies.sparse.inner_products import cosines, inner_products, middle

FEWEST = 3
"""With fewer updates no majority of them can be told from the rest."""


@dataclass(frozen=True)
class FlameOptions(RuleOptions):
    """Options of FLAME."""

    noise: float = option(0.001, "λ: the noise's deviation in units of the updates' median norm; 0: none", at_least=0)


class Flame(Wrapper):
    """Keeps HDBSCAN's majority cluster of cosine distances, and shrinks its updates to the median norm S of all.

    Then the next rule combines them, and each coordinate of the outcome gets noise from N(0, (λS)²) (Algorithm 1). With
    fewer than three updates, or without a cluster of more than half of them, nobody is dropped. A user's score
    is its mean cosine distance to the others.
    """

    name = "flame"
    Options = FlameOptions
    options: FlameOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        left, verdict, _ = self._judged(updates, server)
        return left, verdict

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        left, verdict, norm = self._judged(updates, server)
        result = self.hand_on(left, server, verdict)
        return replace(result, gradient=_with_noise(result.gradient, self.options.noise * norm, server.generator))

    def _judged(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict, float]:
        products = inner_products(updates, server.model)
        norms = products.diagonal().clamp(min=0).sqrt()
        norm = middle(norms)
        distances = 1 - cosines(products)
        kept = torch.from_numpy(majority_cluster(distances.cpu().numpy())).to(norms.device)
        factors = (norm / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)
        left = updates.scale(factors.to(updates.l2_share.dtype)).select(kept)
        scores = distances.fill_diagonal_(0).sum(1) / max(len(updates) - 1, 1)
        notes = {"median_norm": norm, "shrunk": float((factors < 1).sum())}
        return left, Verdict(self.name, updates.users, scores, kept, notes), norm


def majority_cluster(distances: np.ndarray) -> np.ndarray:
    """(n,) who is in HDBSCAN's cluster of at least ⌊n/2⌋ + 1, from distances (n, n); everybody where there is none."""
    n = len(distances)
    everybody = np.ones(n, dtype=np.bool_)
    if n < FEWEST:
        return everybody
    # Imported where it is used: it takes a second, and no other rule needs it.
    from sklearn.cluster import HDBSCAN

    clusters = HDBSCAN(
        min_cluster_size=n // 2 + 1, min_samples=1, allow_single_cluster=True, metric="precomputed", copy=True
    )
    labels = clusters.fit_predict(np.maximum(distances, distances.T).clip(min=0))
    inside: np.ndarray = labels >= 0
    return inside if inside.any() else everybody


def _with_noise(gradient: Gradient, deviation: float, generator: np.random.Generator) -> Gradient:
    """The gradient with normal noise in every coordinate."""
    if not deviation or not math.isfinite(deviation):
        return gradient

    def noise(like: Tensor) -> Tensor:
        drawn = torch.from_numpy(generator.standard_normal(tuple(like.shape), np.float32))
        return drawn.to(like) * deviation

    return replace(
        gradient,
        items=gradient.items + noise(gradient.items),
        shared=gradient.shared + noise(gradient.shared),
    )
