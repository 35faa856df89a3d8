"""Bhagoji's second detector (Bhagoji et al. 2019, §3.3): distances to the others must look like theirs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from protocol.updates import Updates
from settings.options import option
from strategies.rule import RuleOptions, ServerView, Verdict, Wrapper
from strategies.rules.krum import squared_distances

FEWEST = 4
"""With fewer updates the others of one make no range: two have a single distance."""


@dataclass(frozen=True)
class DistanceRangeOptions(RuleOptions):
    """``threshold`` κ: in widths of the others' range; 1 is what an update inside that range cannot exceed."""

    threshold: float = option(2.0, "κ: how far out, in widths of the others' range", above=0)


class DistanceRange(Wrapper):
    """Drops an update whose distances to the others fall too far out of the range of the others' own distances.

    The paper gives the statistic and leaves its threshold open; here it is taken in units of the range's
    width, so that it does not depend on the model's size. With fewer than four updates, or with every one
    beyond the threshold, nobody is dropped.
    """

    name = "distance-range"
    Options = DistanceRangeOptions
    options: DistanceRangeOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        scores = range_scores(squared_distances(updates, server.model.common).sqrt())
        kept = scores <= self.options.threshold
        if not bool(kept.any()):
            kept = torch.ones_like(kept)
        notes = {"dropped": float((~kept).sum()), "worst": float(scores.max())}
        return updates.select(kept), Verdict(self.name, updates.users, scores, kept, notes)


def range_scores(distances: Tensor) -> Tensor:
    """(n,) max(|u_i − L|, |l_i − U|) / (U − L), from pairwise distances (n, n).

    [l_i, u_i] is the range of update i's distances to the others, [L, U] that of the others' distances among
    themselves. Zeros for fewer than four updates.
    """
    n = len(distances)
    if n < FEWEST:
        return distances.new_zeros(n)
    own = torch.eye(n, dtype=torch.bool, device=distances.device)
    nearest = distances.masked_fill(own, torch.inf).topk(2, largest=False)
    farthest = distances.masked_fill(own, -torch.inf).topk(2)
    low = _without_each(nearest.values, nearest.indices).masked_fill(own, torch.inf).amin(1)
    high = _without_each(farthest.values, farthest.indices).masked_fill(own, -torch.inf).amax(1)
    width = (high - low).clamp(min=torch.finfo(distances.dtype).tiny)
    return torch.maximum((farthest.values[:, 0] - low).abs(), (nearest.values[:, 0] - high).abs()) / width


def _without_each(values: Tensor, indices: Tensor) -> Tensor:
    """(n, n) at i, a: the first of a's two extreme distances (n, 2) that is not to i."""
    positions = torch.arange(len(values), device=values.device).unsqueeze(1)
    return torch.where(indices[:, 0] == positions, values[:, 1], values[:, 0])
