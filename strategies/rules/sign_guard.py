"""SignGuard (Xu et al. 2022): an honest update has a usual length, and usual shares of positive numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.kernels.bounds import require_items
from models.kernels.sparse_sums import sign_counts
from protocol.updates import Updates
from settings.options import option
from strategies.rule import RuleOptions, ServerView, Verdict, Wrapper
from strategies.sparse.inner_products import middle
from strategies.sparse.mean_shift import largest_cluster
from strategies.sparse.sampled_coordinates import sample_coordinates


@dataclass(frozen=True)
class SignGuardOptions(RuleOptions):
    """Options of SignGuard."""

    lowest: float = option(0.1, "the shortest usual norm in units of the median one", at_least=0, at_most=1)
    highest: float = option(3.0, "the longest usual norm in units of the median one", at_least=1)
    coordinates: float = option(0.1, "the share of all coordinates whose signs count", above=0, at_most=1)


class SignGuard(Wrapper):
    """Keeps the updates of usual norm in the largest cluster of sign statistics; shrinks them to the median norm.

    The statistics are the shares of positive, zero and negative numbers among randomly drawn coordinates, clustered by
    mean shift (Algorithms 1 and 2 of the paper); rows not sent are zeros, and the L2 term is left out. A user's score
    is its distance to the largest cluster's centre. Where nobody would be left, the update nearest to the median
    norm is kept.
    """

    name = "sign-guard"
    Options = SignGuardOptions
    options: SignGuardOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        norms = updates.norms(server.model.common).double()
        norm = middle(norms)
        usual = (norms >= self.options.lowest * norm) & (norms <= self.options.highest * norm)
        signs = self._signs(updates, server)
        alike = largest_cluster(signs)
        kept = usual & alike
        if not bool(kept.any()):
            kept[(norms - norm).abs().argmin()] = True
        scores = (signs - signs[alike].mean(0)).norm(dim=1)
        factors = (norm / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)
        notes = {"unusual_norms": float((~usual).sum()), "unusual_signs": float((~alike).sum()), "median_norm": norm}
        left = updates.scale(factors.to(updates.l2_share.dtype)).select(kept)
        return left, Verdict(self.name, updates.users, scores, kept, notes)

    def _signs(self, updates: Updates, server: ServerView) -> Tensor:
        """(n, 3) float64: each update's shares of positive, zero and negative numbers among the drawn coordinates."""
        total = server.model.items.numel() + server.model.shared.numel()
        count = max(1, int(self.options.coordinates * total))
        chosen = sample_coordinates(server.model, count, server.generator)
        shared = updates.shared * chosen.shared
        of_shared = torch.stack([(shared > 0).sum(1), (shared < 0).sum(1)], 1)
        positive, negative = ((_signs_of_rows(updates, chosen.items) + of_shared).double() / count).unbind(1)
        return torch.stack([positive, 1 - positive - negative, negative], 1)


def _signs_of_rows(updates: Updates, chosen: Tensor) -> Tensor:
    """(n, 2) int64: each user's positive and negative numbers in its rows, where ``chosen`` (num_items, d) is 1."""
    if updates.has_kernels:
        splits, items, rows = updates.arrays()
        require_items(items, len(chosen))
        return torch.from_numpy(sign_counts(splits, items, rows, chosen.numpy()))
    drawn = updates.rows * chosen.index_select(0, updates.items)
    of_rows = torch.stack([(drawn > 0).sum(1), (drawn < 0).sum(1)], 1)
    return of_rows.new_zeros(len(updates), 2).index_add_(0, updates.row_owner, of_rows)
