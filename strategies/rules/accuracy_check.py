"""Bhagoji's first detector (Bhagoji et al. 2019, §3.3): an update must do about as well as all the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models import VALIDATION_SET
from protocol.updates import Updates
from settings.options import OptionError, option
from strategies.rule import RuleOptions, ServerView, Verdict, Wrapper

ROUNDING = 1e-9
"""Far below one image: 0.95 − 0.94 is no more than 0.01, whatever floats say."""


@dataclass(frozen=True)
class AccuracyCheckOptions(RuleOptions):
    """``margin`` χ: by how much accuracy on the server's validation set may be worse; 0.01 is one point."""

    margin: float = option(0.01, "χ: by how much accuracy may be worse; 0.01 is one point", at_least=0, at_most=1)


class AccuracyCheck(Wrapper):
    """Drops an update Δ_i if the model θ + Δ_i is less accurate than θ + mean_{j≠i} Δ_j by more than the margin.

    For updates that are differences. Needs a validation set at the server (``ServerView.accuracy``). The score is
    how much less accurate the update is. With a single update, or with every one beyond the margin (then
    nothing tells whom to trust), nobody is dropped.
    """

    name = "accuracy-check"
    needs = VALIDATION_SET
    Options = AccuracyCheckOptions
    options: AccuracyCheckOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        if server.accuracy is None:
            raise OptionError(
                "defense: accuracy-check needs a validation set at the server, which this task does not have. "
                "Use it for classification."
            )
        scores = [server.accuracy(others) - server.accuracy(alone) for alone, others in _pairs(updates, server)]
        score = torch.tensor(scores, dtype=torch.float64, device=updates.users.device)
        kept = score <= self.options.margin + ROUNDING
        if not bool(kept.any()):
            kept = torch.ones_like(kept)
        notes = {"dropped": float((~kept).sum()), "worst": float(score.max())}
        return updates.select(kept), Verdict(self.name, updates.users, score, kept, notes)


def _pairs(updates: Updates, server: ServerView) -> Iterator[tuple[Tensor, Tensor]]:
    """For each update two models (p,), one after another: with it alone, and with the others' weighted mean."""
    model = server.model.shared
    weights = updates.num_examples.to(model.dtype)
    total = weights @ updates.shared
    for update, weight in zip(updates.shared, weights, strict=True):
        rest = weights.sum() - weight
        others = (total - weight * update) / rest if rest > 0 else update
        yield model + update, model + others
