"""NormBound (Sun et al. 2019; Wang et al. 2020): no update may be longer than a bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from protocol.updates import Updates
from settings.options import option
from strategies.rule import RuleOptions, ServerView, Verdict, Wrapper

MF_BOUND = 0.1
"""The paper's bound for MF, which holds where no run says another."""


@dataclass(frozen=True)
class NormBoundOptions(RuleOptions):
    """``threshold``: the bound b; 0, where the rule stands outside a run, is the paper's for MF."""

    threshold: float = option(
        0.0,
        "0: the model's (mf 0.1, sasrec 1.5, ncf 0.5, lenet 1, resnet8 3, resnet18 10; the paper takes 2.5 for "
        "sasrec on Gowalla)",
        at_least=0,
        expected="a positive number, or 0 for the model's",
    )


class NormBound(Wrapper):
    """Shrinks each update g to g · min(1, b/‖g‖). The norm is that of the whole gradient, its L2 term λΘ included."""

    name = "norm-bound"
    Options = NormBoundOptions
    options: NormBoundOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        norms = updates.norms(server.model.common)
        factors = ((self.options.threshold or MF_BOUND) / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)
        kept = torch.ones(len(updates), dtype=torch.bool, device=norms.device)
        notes = {
            "mean_norm": float(norms.mean()),
            "max_norm": float(norms.max()),
            "shrunk": float((factors < 1).sum()),
        }
        return updates.scale(factors), Verdict(self.name, updates.users, norms, kept, notes)
