"""TrimmedMean, Median and Krum item by item: each item's rows are judged among the users who touched it.

A recommender's updates are sparse: over all users, the untouched rows' zeros outvote the few who have
something to say about an item (a median is 0), and over whole updates a few poisoned rows vanish in the
norm. Spattack (AAAI 2025) poisons tail items that hardly anybody else touches. The result is scaled by the share t/n
of users who touched the item, so that without trimming it is the plain mean over all n users.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models import ITEM_ROWS
from protocol.updates import Gradient, Updates
from strategies.rule import Combiner, ServerView
from strategies.rules.krum import KrumOptions, alike
from strategies.rules.trimmed_mean import TrimmedMeanOptions
from strategies.sparse.item_columns import Columns, item_columns
from strategies.sparse.order_statistics import Centre, ascending, middle_mean, shared_centre
from strategies.sparse.side_by_side import side_by_side


def item_wise(updates: Updates, num_items: int, centre: Centre, shared: Tensor) -> Gradient:
    """Each item's centre among its t touching users times t/n, beside ``shared`` (p,), all n users' other parameters.

    Rows are judged as they were sent; the L2 term gets the users' mean share.
    """
    items = updates.rows.new_zeros(num_items, updates.dim)

    def settle(columns: Columns) -> None:
        items[columns.items] = centre(columns.rows()) * (columns.positions.shape[1] / len(updates))

    side_by_side(settle, item_columns(updates))
    return Gradient(items, shared, float(updates.l2_share.mean()))


class PerItemTrimmedMean(Combiner):
    """TrimmedMean of each item's row among the t users who sent one. Options: those of ``trimmed-mean``.

    Of 2f rows or fewer as many are cut as leave one or two.
    """

    name = "per-item-trimmed-mean"
    needs = ITEM_ROWS
    prefix = "trimmed-mean"
    Options = TrimmedMeanOptions
    options: TrimmedMeanOptions

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        shared = shared_centre(updates.shared, self._centre)
        return item_wise(updates, len(server.model.items), self._centre, shared)

    def _centre(self, rows: Tensor) -> Tensor:
        count = rows.shape[1]
        cut = self.options.num_cut(count)
        return middle_mean(rows, count, cut, count - cut)


class PerItemMedian(Combiner):
    """Median of each item's row, coordinate by coordinate, among the users who sent one."""

    name = "per-item-median"
    needs = ITEM_ROWS

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        return item_wise(updates, len(server.model.items), _median, shared_centre(updates.shared, _median))


class PerItemKrum(Combiner):
    """Krum on each item's rows: the row nearest to the others of the users who sent one; and on the shared parameters.

    Among t users f is at most (t − 3)/2. Options: ``krum-num-malicious-nodes``.
    """

    name = "per-item-krum"
    needs = ITEM_ROWS
    prefix = "krum"
    Options = KrumOptions
    options: KrumOptions

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        # One choice for all of them: the shared parameters of one user belong together.
        shared = self._centre(updates.shared.unsqueeze(0)).squeeze(0)
        return item_wise(updates, len(server.model.items), self._centre, shared)

    def _centre(self, rows: Tensor) -> Tensor:
        return krum_rows(rows, self.options.assumed(rows.shape[1]))


def krum_rows(rows: Tensor, num_malicious: int) -> Tensor:
    """(m, d): of the rows (m, t, d) of m items, each item's row with the smallest Krum score among its t."""
    count = rows.shape[1]
    if count == 1:
        return rows[:, 0]
    squares = rows.square().sum(2)
    products = torch.bmm(rows, rows.transpose(1, 2))
    if rows.dtype != torch.float64 and bool(alike(squares, products).any()):
        # Rounding would decide between them.
        return krum_rows(rows.double(), num_malicious).to(rows.dtype)
    distances = squares.unsqueeze(2) + squares.unsqueeze(1) - 2 * products
    # Where huge values overflow nothing is known but that the rows are far apart.
    distances = distances.where(products.isfinite(), torch.inf).clamp_(min=0)
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest = min(max(count - num_malicious - 2, 1), count - 1)
    best = ascending(distances)[..., :nearest].sum(2).argmin(1)
    return rows[torch.arange(len(rows), device=rows.device), best]


def _median(rows: Tensor) -> Tensor:
    count = rows.shape[1]
    return middle_mean(rows, count, (count - 1) // 2, count // 2 + 1)
