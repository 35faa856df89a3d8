"""Bulyan (El Mhamdi et al. 2018): select by Krum, then trust each coordinate's values next to the median."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor

from models.kernels import order
from models.kernels.bounds import has_kernels
from protocol.updates import Gradient, Updates
from settings.options import option, require
from strategies.rule import AUTOMATIC, Aggregate, Combiner, RuleOptions, ServerView, Verdict, assumed_attackers
from strategies.rules.krum import krum_scores, squared_distances
from strategies.sparse.order_statistics import coordinate_wise, order_statistics, order_sum, ordered_columns


@dataclass(frozen=True)
class BulyanOptions(RuleOptions):
    """``selection_rule``: ``multi-krum`` takes the θ lowest scores at once, as Flower does; ``krum`` takes the
    lowest, scores the others again, and so on θ times, as the paper does.
    """

    num_malicious_nodes: int = assumed_attackers()
    selection_rule: Literal["multi-krum", "krum"] = option(
        "multi-krum", "multi-krum: the lowest scores at once, as Flower does; krum: one by one, as the paper does"
    )

    def settled(self, clients_per_round: int, num_malicious: int) -> Self:
        f = num_malicious if self.num_malicious_nodes == AUTOMATIC else self.num_malicious_nodes
        require(
            clients_per_round >= 4 * f + 3,
            "bulyan-num-malicious-nodes",
            f,
            f"at most {max((clients_per_round - 3) // 4, 0)} with {clients_per_round} clients per round, since Bulyan "
            "needs 4f + 3 of them",
        )
        return replace(self, num_malicious_nodes=f)


class Bulyan(Combiner):
    """Selects θ = n − 2f updates by Krum; per coordinate, the plain mean of the θ − 2f values nearest to their median.

    In a round with fewer than 4f + 3 updates f is the largest number that Bulyan still bears.
    """

    name = "bulyan"
    Options = BulyanOptions
    options: BulyanOptions

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        return self.aggregate(updates, server).gradient

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        n = len(updates)
        f = max(min(self.options.num_malicious_nodes, (n - 3) // 4), 0)
        distances = squared_distances(updates, server.model.common)
        scores = krum_scores(distances, f)
        chosen = (
            scores.argsort(stable=True)[: n - 2 * f]
            if self.options.selection_rule == "multi-krum"
            else repeated_krum(distances, f, n - 2 * f)
        )
        kept = torch.zeros(n, dtype=torch.bool, device=scores.device)
        kept[chosen] = True
        verdict = Verdict(self.name, updates.users, scores, kept, {"assumed_malicious": float(f)})
        theta = n - 2 * f
        centre = partial(mean_around_median, total=theta, count=theta - 2 * f)
        # With 2f values or fewer that are not zero there are zeros enough, and the median is one of them.
        fewest = min(2 * f, (theta - 1) // 2) + 1
        return Aggregate(coordinate_wise(updates.select(kept), server.model, centre, fewest), (verdict,))


def repeated_krum(distances: Tensor, num_malicious: int, count: int) -> Tensor:
    """(count,) the positions that Krum chooses one after another, each time among those that are left."""
    left = torch.arange(len(distances), device=distances.device)
    chosen = []
    for _ in range(count):
        best = krum_scores(distances[left][:, left], num_malicious).argmin()
        chosen.append(left[best])
        left = torch.cat([left[:best], left[best + 1 :]])
    return torch.stack(chosen)


def mean_around_median(rows: Tensor, total: int, count: int) -> Tensor:
    """(m, d): per coordinate the mean of the ``count`` values nearest to the median of ``total``.

    The values are the t of (m, t, d), the rest zeros. The nearest ones are neighbours in the order: starting
    from the lowest ``count``, value i gives way to value i + count while that lies nearer to the median.
    """
    if has_kernels(rows):
        return torch.from_numpy(order.means_around_medians(rows.contiguous().numpy(), total, count))
    ordered = ordered_columns(rows)
    surplus = total - count
    middle = (total - 1) // 2, total // 2 + 1
    median = (order_sum(ordered, total, *middle) / (middle[1] - middle[0])).unsqueeze(-1)
    width = min(surplus, count)
    lowest = order_statistics(ordered, total, 0, width)
    for start in range(0, surplus, max(width, 1)):
        stop = min(start + width, surplus)
        higher = order_statistics(ordered, total, count + start, count + stop)
        lower = lowest[..., : stop - start]
        lowest[..., : stop - start] = torch.where(median - lower > higher - median, higher, lower)
    return (lowest.sum(-1) + order_sum(ordered, total, width, count)) / count
