"""Krum and MultiKrum (Blanchard et al. 2017): trust the updates that lie close to many others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from models.kernels.bounds import require_items
from models.kernels.gram import gram, rows_by_item
from protocol.updates import Gradient, Updates
from settings.options import option, require
from strategies.rule import AUTOMATIC, RuleOptions, ServerView, Verdict, Wrapper, assumed_attackers
from strategies.sparse.item_columns import CELLS, Columns, item_columns
from strategies.sparse.side_by_side import side_by_side

PARTIAL_SUMS = 8
"""Parts in which the inner products are summed, side by side."""

ALIKE = 1e-2
"""Below this share of ‖a‖² + ‖b‖² a squared distance ‖a‖² + ‖b‖² − 2⟨a, b⟩ of 32-bit floats is too much rounding."""


def squared_distances(updates: Updates, common: Gradient | None = None) -> Tensor:
    """(n, n) float64: the squared distances between whole updates, rows not sent being zeros.

    With ``common`` = λΘ each update includes its share of it. One Gram matrix over the rows that at least
    two users touched; no dense n × num_items × d tensor is ever made. Where two users' rows are so much alike that
    their distance would be the rounding errors of 32-bit floats, the matrix is of 64-bit ones.
    """
    n = len(updates)
    products, squares = _inner_products(updates, updates.rows.dtype)
    if updates.rows.dtype != torch.float64 and bool(alike(squares, products).any()):
        products, squares = _inner_products(updates, torch.float64)
    for block in torch.split(updates.shared, max(1, CELLS // n), dim=1):
        shared = block.double()
        squares += shared.square().sum(1)
        products += shared @ shared.T
    # Where huge values overflow nothing is known but that the updates are far apart.
    distances = (squares.unsqueeze(1) + squares - 2 * products).where(products.isfinite(), torch.inf)
    if common is not None and bool((updates.l2_share != updates.l2_share[0]).any()):
        gaps = (updates.l2_share.unsqueeze(1) - updates.l2_share).double()
        inner = updates.inner(common).double()
        constant = common.items.double().square().sum() + common.shared.double().square().sum()
        distances += 2 * gaps * (inner.unsqueeze(1) - inner) + gaps.square() * constant
    return distances.nan_to_num(torch.inf, torch.inf).clamp_(min=0).fill_diagonal_(0)


def alike(squares: Tensor, products: Tensor) -> Tensor:
    """(…, n, n) which pairs of vectors are much alike, from their squares (…, n) and inner products (…, n, n)."""
    sums = squares.unsqueeze(-1) + squares.unsqueeze(-2)
    close = (sums - 2 * products < ALIKE * sums) & (sums > 0)
    close.diagonal(dim1=-2, dim2=-1).fill_(False)
    return close


def _inner_products(updates: Updates, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Over the item rows, ⟨g_a, g_b⟩ (n, n) for a ≠ b, whose diagonal means nothing, and ‖g_a‖² (n,).

    Both are float64; each row's inner products and length are computed in ``kind``.
    """
    n, compiled = len(updates), updates.has_kernels
    if kind != updates.rows.dtype:
        updates = replace(updates, rows=updates.rows.to(kind))
    squares = updates.extent[1].double().clone()
    if compiled:
        splits, items, rows = updates.arrays()
        num_items = int(items.max(initial=-1)) + 1
        require_items(items, num_items)
        index = rows_by_item(splits, items, num_items)
        cuts = [num_items * part // PARTIAL_SUMS for part in range(PARTIAL_SUMS + 1)]

        def of_items(part: int) -> Tensor:
            return torch.from_numpy(gram(*index, rows, cuts[part], cuts[part + 1], n))

        return torch.stack(side_by_side(of_items, range(PARTIAL_SUMS))).sum(0), squares

    def products(blocks: list[Columns]) -> Tensor:
        total = updates.rows.new_zeros(n * n, dtype=torch.float64)
        for columns in blocks:
            pairs = columns.owners.unsqueeze(2) * n + columns.owners.unsqueeze(1)
            rows = columns.rows()
            inner = torch.bmm(rows, rows.transpose(1, 2))
            total.scatter_add_(0, pairs.flatten(), inner.flatten().double())
        return total

    # Always as many sums, so that what they round to does not depend on the number of threads.
    blocks = list(item_columns(updates, fewest=2))
    parts = side_by_side(products, [blocks[start::PARTIAL_SUMS] for start in range(PARTIAL_SUMS)])
    return torch.stack(parts).sum(0).view(n, n), squares


def krum_scores(distances: Tensor, num_malicious: int) -> Tensor:
    """(n,) Krum's score: the sum of the squared distances to the n − f − 2 nearest others (at least one).

    A lone update scores 0.
    """
    n = len(distances)
    nearest = min(max(n - num_malicious - 2, 1), n - 1)
    others = distances.clone().fill_diagonal_(torch.inf)
    return others.topk(nearest, dim=1, largest=False).values.sum(1)


@dataclass(frozen=True)
class KrumOptions(RuleOptions):
    """Options of Krum and MultiKrum, named as Flower names them."""

    num_malicious_nodes: int = assumed_attackers()
    num_nodes_to_select: int = option(
        0,
        "how many updates multi-krum keeps; 0: all but the assumed attackers'",
        at_least=0,
        expected="at least 1, or 0 for all but the assumed attackers",
    )

    def settled(self, clients_per_round: int, num_malicious: int) -> Self:
        f = num_malicious if self.num_malicious_nodes == AUTOMATIC else self.num_malicious_nodes
        require(
            clients_per_round >= 2 * f + 3,
            "krum-num-malicious-nodes",
            f,
            f"at most {max((clients_per_round - 3) // 2, 0)} with {clients_per_round} clients per round, since Krum "
            "needs 2f + 3 of them",
        )
        return replace(self, num_malicious_nodes=f)

    def assumed(self, num_updates: int) -> int:
        """The f that a round with so many updates can bear: n ≥ 2f + 3 (Blanchard et al. 2017, Proposition 1)."""
        return max(min(self.num_malicious_nodes, (num_updates - 3) // 2), 0)


class MultiKrum(Wrapper):
    """Drops the f updates with the largest Krum score; the weighted mean of the rest (Blanchard et al. 2017, §5).

    In a round with fewer than 2f + 3 updates f is the largest number that Krum still bears.
    """

    name = "multi-krum"
    prefix = "krum"
    Options = KrumOptions
    options: KrumOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        f = self.options.assumed(len(updates))
        scores = krum_scores(squared_distances(updates, server.model.common), f)
        kept = torch.zeros(len(updates), dtype=torch.bool, device=scores.device)
        kept[scores.argsort(stable=True)[: self._num_kept(len(updates), f)]] = True
        return updates.select(kept), Verdict(self.name, updates.users, scores, kept, {"assumed_malicious": float(f)})

    def _num_kept(self, num_updates: int, f: int) -> int:
        return min(self.options.num_nodes_to_select or num_updates - f, num_updates)


class Krum(MultiKrum):
    """Keeps the one update with the smallest Krum score (Blanchard et al. 2017, §4)."""

    name = "krum"

    def _num_kept(self, num_updates: int, f: int) -> int:
        return 1
