"""For whom a model works: HR and NDCG of groups of users, by how active they are or how popular their item is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metrics.metric import Metric
from metrics.ranked import Ranked
from metrics.ranking import MOST_RANKS, Ranking, rank_cells, ranking_metrics

CELLS = MOST_RANKS + 1


class RankingByGroup(Metric):
    """HR@k and NDCG@k of each group of users.

    ``value_of`` gives each user's value (n,); ``edges`` (g−1,), ascending, cut the values into g groups: group i holds
    those above ``edges[i-1]`` up to and including ``edges[i]``. The numbers are called hr@5-``name``-0, and so on.
    """

    def __init__(self, name: str, edges: Sequence[int], value_of: Callable[[Ranked], Tensor]) -> None:
        self.name = name
        self.edges = torch.tensor(list(edges), dtype=torch.int64)
        self.value_of = value_of
        self.names = tuple(f"{one}-{name}-{group}" for group in range(self.num_groups) for one in Ranking.names)

    @property
    def num_groups(self) -> int:
        """g."""
        return len(self.edges) + 1

    def length(self, num_items: int) -> int:
        return self.num_groups * CELLS

    def count(self, ranked: Ranked) -> Tensor:
        values = self.value_of(ranked)
        groups = torch.searchsorted(self.edges.to(values.device), values)
        return torch.bincount(groups * CELLS + rank_cells(ranked.ranks), minlength=self.num_groups * CELLS)

    def values(self, totals: Sequence[int]) -> dict[str, float | None]:
        return {
            f"{one}-{self.name}-{group}": value
            for group, histogram in enumerate(self.histograms(totals))
            for one, value in ranking_metrics(histogram).items()
        }

    def histograms(self, totals: Sequence[int]) -> list[Sequence[int]]:
        """Each group's rank histogram."""
        return [totals[start : start + CELLS] for start in range(0, len(totals), CELLS)]


def by_activity(edges: Sequence[int]) -> RankingByGroup:
    """Groups of users by how many training items they have."""
    return RankingByGroup("activity", edges, lambda ranked: ranked.activity)


def by_popularity(edges: Sequence[int], popularity: Tensor) -> RankingByGroup:
    """Groups of users by the ``popularity`` (num_items,) int64 of their held-out item."""
    return RankingByGroup("popularity", edges, lambda ranked: popularity.to(ranked.targets.device)[ranked.targets])
