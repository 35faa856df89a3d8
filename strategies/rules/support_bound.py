"""SupportBound: no update may touch more items than its user can have interacted with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from models import ITEM_ROWS
from protocol.updates import Updates, ragged_positions, splits_of
from settings.options import option
from strategies.rule import RuleOptions, ServerView, Verdict, Wrapper

SLACK = 1
"""Examples beyond those reported: a sequence has one item more than it has positions to predict."""


@dataclass(frozen=True)
class SupportBoundOptions(RuleOptions):
    """What an update may touch, and what happens to one that touches more.

    ``rows_per_example``: 2 for a positive and its negative; 17 with the contrastive task, whose 15 negatives are
    touched too. Where the rule stands outside a run, 0 is 2.
    """

    reference: Literal["examples", "cohort"] = option(
        "examples", "what bounds an update's rows: its examples, or the median of the cohort"
    )
    rows_per_example: float = option(
        0.0,
        "of reference examples; 0: what the task touches, 2, with the contrastive task 2 + its negatives",
        at_least=0,
        expected="a positive number, or 0 for the task's",
    )
    cohort_factor: float = option(5.0, "of reference cohort: times its median", at_least=1)
    action: Literal["reject", "thin"] = option(
        "reject", "reject: drop the update; thin: keep a random choice of as many rows as are allowed"
    )


class SupportBound(Wrapper):
    """Rejects or thins the updates that touch far more items than a user can have interacted with.

    Its score is the number of touched rows over the number allowed. Where every update is beyond the
    bound, the one that exceeds it least is kept.
    """

    name = "support-bound"
    needs = ITEM_ROWS
    Options = SupportBoundOptions
    options: SupportBoundOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        limits = self.allowed_rows(updates)
        scores = updates.row_counts / limits
        within = updates.row_counts <= limits
        notes = {"most_rows": float(updates.row_counts.max()), "beyond": float((~within).sum())}
        if self.options.action == "thin":
            kept = torch.ones_like(within)
            return thin(updates, limits, server.generator), Verdict(self.name, updates.users, scores, kept, notes)
        kept = within if bool(within.any()) else scores == scores.min()
        return updates.select(kept), Verdict(self.name, updates.users, scores, kept, notes)

    def allowed_rows(self, updates: Updates) -> Tensor:
        """(n,) int64: how many rows each user may send."""
        if self.options.reference == "cohort":
            typical = float(np.median(updates.row_counts.cpu().numpy()))
            return torch.full_like(updates.row_counts, math.ceil(self.options.cohort_factor * max(typical, 1.0)))
        allowed = (updates.num_examples + SLACK) * (self.options.rows_per_example or 2.0)
        return allowed.ceil().to(torch.int64)


def thin(updates: Updates, limits: Tensor, generator: np.random.Generator) -> Updates:
    """Of each update at most ``limits`` (n,) rows, chosen uniformly at random."""
    counts = torch.minimum(updates.row_counts, limits)
    if bool((counts == updates.row_counts).all()):
        return updates
    owner = updates.row_owner
    keys = torch.from_numpy(generator.random(len(owner))).to(owner.device)
    # Sorted by user, then at random: the first rows of each user's stretch are a uniform choice.
    shuffled = keys.argsort()
    shuffled = shuffled[owner[shuffled].argsort(stable=True)]
    rows = shuffled[ragged_positions(updates.row_splits[:-1], counts)].sort().values
    return replace(updates, row_splits=splits_of(counts), items=updates.items[rows], rows=updates.rows[rows])
