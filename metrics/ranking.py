"""HR and NDCG of the held-out items, out of a histogram of their ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metrics.metric import Metric
from metrics.ranked import Ranked

CUTOFFS = (5, 10, 20)

MOST_RANKS = 20
"""A rank histogram tells ranks 1 to 20 apart and counts the rest together: 21 counts."""


class Ranking(Metric):
    """HR@k and NDCG@k for k = 5, 10, 20: means over users."""

    name = "ranking"
    names = tuple(f"{kind}@{cutoff}" for cutoff in CUTOFFS for kind in ("hr", "ndcg"))
    selects = "hr@5"
    shown = ("hr@5", "ndcg@5")

    def length(self, num_items: int) -> int:
        return MOST_RANKS + 1

    def count(self, ranked: Ranked) -> Tensor:
        return torch.bincount(rank_cells(ranked.ranks), minlength=MOST_RANKS + 1)

    def values(self, totals: Sequence[int]) -> dict[str, float | None]:
        return ranking_metrics(totals)


def rank_cells(ranks: Tensor) -> Tensor:
    """(n,) int64: which count of a histogram a rank belongs to, 0 for rank 1, …, 20 for all beyond rank 20."""
    return ranks.clamp(max=MOST_RANKS + 1) - 1


def ranking_metrics(histogram: Sequence[int]) -> dict[str, float | None]:
    """HR@k and NDCG@k for k = 5, 10, 20 from how many held-out items had rank 1, …, 20, and beyond.

    With one relevant item NDCG@k is 1/log2(rank + 1) where rank ≤ k, else 0; both are means over users. Where nobody
    was counted they are unknown: ``None``.
    """
    users = sum(histogram)
    metrics: dict[str, float | None] = {}
    for cutoff in CUTOFFS:
        top = histogram[:cutoff]
        gain = math.fsum(count / math.log2(rank + 1) for rank, count in enumerate(top, start=1))
        metrics[f"hr@{cutoff}"] = sum(top) / users if users else None
        metrics[f"ndcg@{cutoff}"] = gain / users if users else None
    return metrics
