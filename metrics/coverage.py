"""How much of the catalogue is recommended to anybody."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metrics.metric import Metric
from metrics.ranked import Ranked


class Coverage(Metric):
    """The share of all items that stand in anybody's list of the best ``top`` candidates.

    A node that hosts a single user uploads that user's list.
    """

    def __init__(self, top: int = 5) -> None:
        self.top = top
        self.name = f"coverage@{top}"
        self.names = (self.name,)
        self.per_user = top

    def length(self, num_items: int) -> int:
        return num_items

    def count(self, ranked: Ranked) -> Tensor:
        lists = ranked.top(self.top)
        return torch.bincount(lists[lists >= 0], minlength=ranked.num_items)

    def values(self, totals: Sequence[int]) -> dict[str, float | None]:
        return {self.name: sum(count > 0 for count in totals) / len(totals)}
