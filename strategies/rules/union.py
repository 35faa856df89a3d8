"""UNION (the paper, §"UNION", Algorithms 2 and 3): drop the updates that would make item vectors less uniform."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from models import ITEM_ROWS
from protocol.updates import Updates
from settings.options import require
from strategies.rule import RuleOptions, ServerView, Verdict, Wrapper
from strategies.server_model import ServerModel
from strategies.sparse import gap_statistic
from strategies.sparse.uniformity import uniformities


@dataclass(frozen=True)
class UnionOptions(RuleOptions):
    """``num_items``: items drawn each round to measure uniformity on; ``gap_draws``: reference samples B.

    ``drop_small_minority``: also drop the smaller cluster, whatever the gap statistic says, where it holds
    no more than ``num_malicious_nodes`` updates (−1: as many as the run expects). The authors' program does;
    it needs the attackers' number, which no server knows.
    """

    num_items: int = 500
    gap_draws: int = 50
    drop_small_minority: bool = False
    num_malicious_nodes: int = -1

    def __post_init__(self) -> None:
        require(self.num_items >= 2, "union-num-items", self.num_items, "at least 2 items")
        require(self.gap_draws >= 2, "union-gap-draws", self.gap_draws, "at least 2 draws")
        f = self.num_malicious_nodes
        require(f >= -1, "union-num-malicious-nodes", f, "at least 0, or -1 for the number that the run expects")

    def settled(self, clients_per_round: int, num_malicious: int) -> Self:
        return self if self.num_malicious_nodes >= 0 else replace(self, num_malicious_nodes=num_malicious)


class Union(Wrapper):
    """Measures what each update alone would do to the uniformity of the item vectors, and drops the smaller cluster.

    Only where the gap statistic finds two clusters of uniformity; of two equally large ones the less
    uniform goes. With fewer than three updates, or without spread, nobody is dropped.
    """

    name = "union"
    needs = ITEM_ROWS
    Options = UnionOptions
    options: UnionOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        uniformity = uniformities(updates, server.model, self._draw(server.model, server.generator))
        values = uniformity.cpu().numpy()
        clusters = gap_statistic.num_clusters(values, server.generator, self.options.gap_draws)
        minority = torch.from_numpy(smaller_cluster(values)).to(uniformity.device)
        few = self.options.drop_small_minority and int(minority.sum()) <= self.options.num_malicious_nodes
        dropped = minority if len(updates) >= 3 and (clusters == 2 or few) else torch.zeros_like(minority)
        notes = {
            "clusters": float(clusters),
            "min_uniformity": float(values.min()),
            "mean_uniformity": float(values.mean()),
            "max_uniformity": float(values.max()),
        }
        verdict = Verdict(self.name, updates.users, uniformity.mean() - uniformity, ~dropped, notes)
        return updates.select(~dropped), verdict

    def _draw(self, model: ServerModel, generator: np.random.Generator) -> Tensor:
        total = len(model.items)
        drawn = generator.choice(total, min(self.options.num_items, total), replace=False)
        return torch.from_numpy(drawn).to(model.items.device)


def smaller_cluster(values: gap_statistic.Floats) -> gap_statistic.Bools:
    """(n,) who is in the smaller of the best two clusters; of equal ones, in the lower. Without spread nobody is."""
    upper = gap_statistic.split_in_two(values)
    if not upper.any():
        return upper
    return upper if upper.sum() < (~upper).sum() else ~upper
