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
from settings.options import require
from strategies.rule import RuleOptions, ServerView, Verdict, Wrapper

SLACK = 1
"""Examples beyond those reported: a sequence has one item more than it has positions to predict."""


@dataclass(frozen=True)
class SupportBoundOptions(RuleOptions):
    """What an update may touch, and what happens to one that touches more.

    ``reference``: ``examples`` allows ``rows_per_example`` rows for each training example that the user reports, of
    which no more count than ``examples_factor`` times the cohort's median (0: all of them), ``cohort`` allows
    ``cohort_factor`` times the cohort's median of rows. ``rows_per_example``: 2 for a positive and
    its negative; 17 with the contrastive task, whose 15 negatives are touched too; 0: what the run's
    task touches (2 where the rule stands outside a run). ``action``: ``reject``
    drops the update, ``thin`` keeps a random choice of as many of its rows as are allowed.
    """

    reference: Literal["examples", "cohort"] = "examples"
    rows_per_example: float = 0.0
    cohort_factor: float = 5.0
    examples_factor: float = 16.0
    action: Literal["reject", "thin"] = "reject"

    def __post_init__(self) -> None:
        per_example = self.rows_per_example
        require(
            per_example >= 0, "support-bound-rows-per-example", per_example, "a positive number, or 0 for the task's"
        )
        require(self.cohort_factor >= 1, "support-bound-cohort-factor", self.cohort_factor, "at least 1")
        believed = self.examples_factor
        require(
            believed == 0 or believed >= 1, "support-bound-examples-factor", believed, "at least 1, or 0 to believe all"
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
        examples = updates.num_examples
        if self.options.examples_factor:
            # The number is the user's own word.
            examples = examples.clamp(max=math.ceil(self.options.examples_factor * float(examples.median())))
        allowed = (examples + SLACK) * (self.options.rows_per_example or 2.0)
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
