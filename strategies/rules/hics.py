"""HiCS (Yuan et al., SIGIR 2023): hierarchical gradient clipping with sparsified updating, made against promotion."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models import ITEM_ROWS
from protocol.updates import Updates, ragged_positions, splits_of
from settings.options import option
from strategies.rule import RuleOptions, ServerView, Verdict, Wrapper


@dataclass(frozen=True)
class HicsOptions(RuleOptions):
    """``row_bound`` and ``bound``: what no row and no update may exceed; ``kept``: the share of an update's rows."""

    row_bound: float = option(0.0, "no row is longer than this; 0: the median of the round's rows", at_least=0)
    bound: float = option(0.0, "no update is longer than this; 0: the median of the round's updates", at_least=0)
    kept: float = option(0.5, "the share of an update's rows that stays, its longest ones", above=0, at_most=1)


class Hics(Wrapper):
    """Clips each item row, keeps the longest rows of each update, and clips what is left of the update as a whole.

    The norm of a row is that of what was uploaded; the norm of the whole has the L2 term λΘ, as NormBound's. Parameters
    that are no item rows are clipped with the whole alone. The score is the norm of the update as it came.
    """

    name = "hics"
    needs = ITEM_ROWS
    Options = HicsOptions
    options: HicsOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        scores = updates.norms(server.model.common)
        lengths = torch.linalg.vector_norm(updates.rows, dim=1)
        row_factors = _factors(lengths, self.options.row_bound)
        # By length before clipping: all clipped rows are equally long.
        left = longest_rows(replace(updates, rows=updates.rows * row_factors.unsqueeze(1)), lengths, self.options.kept)
        factors = _factors(left.norms(server.model.common), self.options.bound)
        everybody = torch.ones(len(updates), dtype=torch.bool, device=scores.device)
        notes = {
            "clipped_rows": float((row_factors < 1).sum()),
            "left_out_rows": float(len(updates.items) - len(left.items)),
            "shrunk": float((factors < 1).sum()),
        }
        return left.scale(factors), Verdict(self.name, updates.users, scores, everybody, notes)


def longest_rows(updates: Updates, lengths: Tensor, share: float) -> Updates:
    """The ``share`` of each update's rows with the largest ``lengths`` (r,), rounded up; ties go to the lower item."""
    counts = torch.tensor([math.ceil(share * count) for count in updates.row_counts.tolist()], dtype=torch.int64)
    counts = torch.minimum(counts.to(lengths.device), updates.row_counts)
    owner = updates.row_owner
    ranked = lengths.argsort(descending=True, stable=True)
    ranked = ranked[owner[ranked].argsort(stable=True)]
    rows = ranked[ragged_positions(updates.row_splits[:-1], counts)].sort().values
    return replace(updates, row_splits=splits_of(counts), items=updates.items[rows], rows=updates.rows[rows])


def _factors(norms: Tensor, bound: float) -> Tensor:
    """What shortens to the bound, which is the median of the norms where it is 0; never above 1."""
    if not len(norms):
        return norms
    limit = bound or float(norms.median())
    return (limit / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)
