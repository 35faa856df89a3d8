"""The regulariser of rCL4FedRec (Yuan et al. 2024): the server keeps rows of popular items apart from all others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from models import ITEM_ROWS
from protocol.updates import Updates
from settings.options import option
from strategies.rule import Aggregate, RuleOptions, ServerView, Verdict, Wrapper
from strategies.sparse.side_by_side import side_by_side

SHARPNESS = 2.0
"""The t of the Gaussian potential exp(−t‖x − y‖²), as Wang and Isola (2020) take it for uniformity."""

BLOCK = 128
"""Popular items that are compared at once with …"""

OTHERS = 2048
"""… so many others: a megabyte of potentials, which stays in a core's cache."""


@dataclass(frozen=True)
class PopularitySeparationOptions(RuleOptions):
    """``weight``: how much the regulariser counts; ``popular``: the share of items that count as popular."""

    weight: float = option(0.1, "how much the regulariser counts beside the updates", at_least=0)
    popular: float = option(0.1, "the share of the items that are popular: those most often sent", at_least=0, below=1)


class PopularitySeparation(Wrapper):
    """Adds ``weight`` · ∂R/∂E to the gradient that the rest of the chain makes; judges nobody.

    Popularity is how many uploads have had a row of the item so far, which is all that a server sees of it. Where
    updates are differences, which go against gradients, the term is subtracted.
    """

    name = "popularity-separation"
    needs = ITEM_ROWS
    Options = PopularitySeparationOptions
    options: PopularitySeparationOptions

    def __init__(self, inner: Any = None, options: Any = None) -> None:
        super().__init__(inner, options)
        self._sent: list[int] = []

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        sent = torch.bincount(updates.items.cpu(), minlength=len(server.model.items))
        if self._sent:
            sent += torch.tensor(self._sent)
        self._sent = sent.tolist()
        nothing = torch.zeros(len(updates), dtype=updates.rows.dtype, device=updates.rows.device)
        return updates, Verdict(self.name, updates.users, nothing, nothing == 0, {})

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        result, items = super().aggregate(updates, server), server.model.items
        count = round(self.options.popular * len(items))
        value, extra = separation(items, popular_items(self._sent, count).to(items.device))
        weight = self.options.weight if server.model.optimizer == "adam" else -self.options.weight
        gradient = replace(result.gradient, items=result.gradient.items + weight * extra)
        own = replace(result.verdicts[0], notes={"regulariser": value})
        return replace(result, gradient=gradient, verdicts=(own, *result.verdicts[1:]))

    def state(self) -> dict[str, Any]:
        """See ``Rule``."""
        return {"sent": self._sent, "inner": self.inner.state()} if self._sent else self.inner.state()

    def restore(self, state: dict[str, Any]) -> None:
        """See ``Rule``."""
        self._sent = [int(count) for count in state.get("sent", [])]
        self.inner.restore(state["inner"] if "sent" in state else state)


def popular_items(sent: list[int], count: int) -> Tensor:
    """The ``count`` items that were sent most often; ties go to the lower item."""
    return torch.tensor(sent).argsort(descending=True, stable=True)[:count].sort().values


def separation(table: Tensor, popular: Tensor) -> tuple[float, Tensor]:
    """R and ∂R/∂E for R = ln of the mean of exp(−t‖x_h − x_n‖²) over popular items h and all others n, x = e/‖e‖.

    ``table`` (num_items, d), ``popular`` (k,) item ids. R and the gradient are 0 where one of the two groups is empty.
    """
    others = torch.ones(len(table), dtype=torch.bool, device=table.device)
    others[popular] = False
    gradient = torch.zeros_like(table)
    if not len(popular) or not bool(others.any()):
        return 0.0, gradient
    norms = torch.linalg.vector_norm(table, dim=1, keepdim=True).clamp(min=torch.finfo(table.dtype).tiny)
    units = table / norms
    heads = units[popular]

    def against(block: Tensor) -> tuple[Tensor, Tensor]:
        """Of some others (b,) the sum of all potentials, and for each popular item that of x_n times the potential."""
        tails = units[block]
        of_tails, of_heads, sums = torch.zeros_like(tails), torch.empty_like(heads), []
        for first in range(0, len(heads), BLOCK):
            some = heads[first : first + BLOCK]
            # Of unit vectors −t‖x − y‖² = 2t(x · y − 1).
            potentials = (some @ tails.T).sub_(1).mul_(2 * SHARPNESS).exp_()
            of_heads[first : first + BLOCK] = potentials @ tails
            of_tails += potentials.T @ some
            sums.append(potentials.sum().double())
        gradient[block] = of_tails
        return torch.stack(sums).sum(), of_heads

    parts = side_by_side(against, torch.split(others.nonzero().flatten(), OTHERS))
    total = torch.stack([part[0] for part in parts]).sum()
    for _, of_heads in parts:
        gradient[popular] += of_heads
    gradient *= 2 * SHARPNESS / total
    # Along the row itself its direction does not change.
    gradient = (gradient - (gradient * units).sum(1, keepdim=True) * units) / norms
    return float((total / (len(heads) * int(others.sum()))).log()), gradient
