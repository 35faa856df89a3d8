"""UNION (the paper, §"UNION", Algorithms 2 and 3): drop the updates that would make item vectors less uniform."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from models import ITEM_ROWS
from protocol.updates import Updates
from settings.options import option
from strategies.rule import RuleOptions, ServerView, Verdict, Wrapper, assumed_attackers
from strategies.server_model import ServerModel
from strategies.sparse import gap_statistic
from strategies.sparse.squared_uniformity import squared_uniformities
from strategies.sparse.uniformity import uniformities


@dataclass(frozen=True)
class UnionOptions(RuleOptions):
    """``drop_small_minority``: the authors' program drops the smaller cluster, whatever the gap statistic says, where
    it holds no more than ``num_malicious_nodes`` updates. It needs the attackers' number, which no server knows.

    ``step`` and ``distance``: the authors' program steps by the server's Adam and takes plain distances, and so do
    the values in their Figure 4; as Algorithm 2 and Eq. 6 are printed the step is Θ − η·g, the distance squared.
    """

    num_items: int = option(500, "items drawn each round to measure uniformity on", at_least=2)
    step: Literal["adam", "sgd"] = option(
        "adam", "with an update alone: adam, the server's (the authors' program); sgd, Θ − ηg (Algorithm 2 as printed)"
    )
    distance: Literal["plain", "squared"] = option(
        "plain", "between item vectors: plain (the authors' program); squared (Eq. 6 as printed)"
    )
    gap_draws: int = option(50, "reference samples B of the gap statistic", at_least=2)
    drop_small_minority: bool = option(
        False, "also drop the smaller cluster where it has no more updates than there are assumed attackers"
    )
    num_malicious_nodes: int = assumed_attackers()

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
        drawn = self._draw(server.model, server.generator)
        model = with_plain_steps(server.model) if self.options.step == "sgd" else server.model
        measure = uniformities if self.options.distance == "plain" else squared_uniformities
        uniformity = measure(updates, model, drawn)
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


def with_plain_steps(model: ServerModel) -> ServerModel:
    """The model such that an update g, a gradient, steps it to Θ − η(g + λΘ).

    A model whose updates are differences is stepped so already.
    """
    if model.optimizer == "sgd":
        return model
    # The plain optimizer adds differences, Θ + η(Δ − λΘ): with both signs turned it descends by gradients.
    return replace(model, optimizer="sgd", learning_rate=-model.learning_rate, weight_decay=-model.weight_decay)


def smaller_cluster(values: gap_statistic.Floats) -> gap_statistic.Bools:
    """(n,) who is in the smaller of the best two clusters; of equal ones, in the lower. Without spread nobody is."""
    upper = gap_statistic.split_in_two(values)
    if not upper.any():
        return upper
    return upper if upper.sum() < (~upper).sum() else ~upper
