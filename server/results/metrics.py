"""From counts to metrics: HR and NDCG out of rank histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence

CUTOFFS = (5, 10, 20)


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
