"""NormBound (Sun et al. 2019; Wang et al. 2020): no update may be longer than a bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from protocol.updates import Updates
from settings.options import require
from strategies.rule import RuleOptions, ServerView, Verdict, Wrapper


@dataclass(frozen=True)
class NormBoundOptions(RuleOptions):
    """``threshold``: the bound b; the paper takes 0.1 for MF, 1.5 (ML-1M) and 2.5 (Gowalla) for SASRec."""

    threshold: float = 0.1

    def __post_init__(self) -> None:
        require(self.threshold > 0, "norm-bound-threshold", self.threshold, "a positive number")


class NormBound(Wrapper):
    """Shrinks each update g to g · min(1, b/‖g‖). The norm is that of the whole gradient, its L2 term λΘ included."""

    name = "norm-bound"
    Options = NormBoundOptions
    options: NormBoundOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        norms = updates.norms(server.model.common)
        factors = (self.options.threshold / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)
        kept = torch.ones(len(updates), dtype=torch.bool, device=norms.device)
        notes = {
            "mean_norm": float(norms.mean()),
            "max_norm": float(norms.max()),
            "shrunk": float((factors < 1).sum()),
        }
        return updates.scale(factors), Verdict(self.name, updates.users, norms, kept, notes)
