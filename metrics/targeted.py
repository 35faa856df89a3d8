"""Whether items that somebody promotes come to be recommended: exposure, NDCG and mean rank of target items."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metrics.metric import Metric
from metrics.ranked import Ranked
from metrics.ranking import CUTOFFS, ranking_metrics


class TargetRanking(Metric):
    """ER@k, NDCG@k (k = 5, 10, 20) and the mean rank of ``targets``, item indexes; each the mean over the targets.

    ER@k of a target is the share of those users who have it among their best k candidates. Who interacted with the
    target in what the model knows of the user (training, of the test part also validation) does not count for it. A
    held-out item that is the target stays a candidate. Ties count against the target, as for held-out items.
    Source: the measures of PipAttack (WSDM 2022), FedRecAttack (ICDE 2022) and A-hum (IJCAI 2022).
    """

    name = "targets"
    names = (*(f"{kind}@{cutoff}" for cutoff in CUTOFFS for kind in ("er", "target-ndcg")), "target-rank")
    shown = ("er@10",)

    def __init__(self, targets: Sequence[int]) -> None:
        self.targets = tuple(targets)
        self.parts = len(self.targets)

    def length(self, num_items: int) -> int:
        """One count for each target and rank, and one for the users who interacted with it, as rank 0."""
        return len(self.targets) * (num_items + 1)

    def count(self, ranked: Ranked) -> Tensor:
        num_items = ranked.num_items
        owner, items = ranked.excluded
        counts = []
        for target in self.targets:
            own = ranked.all_scores[:, target : target + 1]
            ranks = (ranked.all_scores >= own).sum(1)
            beaten = (ranked.all_scores[owner, items] >= own[owner, 0]).to(torch.int64)
            ranks = ranks.index_add(0, owner, -beaten).clamp(min=1)
            ranks[owner[items == target]] = 0
            counts.append(torch.bincount(ranks, minlength=num_items + 1))
        return torch.cat(counts)

    def values(self, totals: Sequence[int]) -> dict[str, float | None]:
        size = len(totals) // len(self.targets)
        found = [_of_one(totals[start + 1 : start + size]) for start in range(0, len(totals), size)]
        known = [values for values in found if values]
        if not known:
            return dict.fromkeys(self.names)
        return {name: math.fsum(values[name] for values in known) / len(known) for name in self.names}


def _of_one(histogram: Sequence[int]) -> dict[str, float]:
    """The numbers of one target from how many users rank it 1, 2, …; nothing where there are no such users."""
    users = sum(histogram)
    if not users:
        return {}
    found = {"target-rank": sum(rank * count for rank, count in enumerate(histogram, start=1)) / users}
    # A target ranks as the one held-out item does: hr@k is the share of users who have it among their first k.
    for name, value in ranking_metrics(histogram).items():
        found[name.replace("hr@", "er@").replace("ndcg@", "target-ndcg@")] = value or 0.0
    return found
