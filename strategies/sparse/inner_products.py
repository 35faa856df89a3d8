"""Geometry of sparse updates by their inner products: what many rules need, without any dense update.

A rule whose result is a linear combination of the updates can do all of its steps on the matrix of inner products
P and the combination's weights w: the point z = Σ w_j g_j lies at ‖g_i − z‖² = P_ii − 2 (Pw)_i + wᵀPw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from protocol.updates import Gradient, Updates
from strategies.server_model import ServerModel
from strategies.sparse.item_columns import CELLS, Columns, item_columns
from strategies.sparse.mixtures import Mixtures
from strategies.sparse.side_by_side import side_by_side

PARTIAL_SUMS = 8
"""Parts in which the inner products are summed, side by side."""

OVERFLOWN = 1e100
"""The squared length of an update whose own does not fit its kind of number: longer than any that does."""


def inner_products(updates: Updates, model: ServerModel | None = None) -> Tensor:
    """(n, n) float64: ⟨g_a, g_b⟩ of whole updates, rows not sent being zeros; with ``model`` each one's λΘ included.

    Two updates whose product overflows count as orthogonal, so that they are as far apart as they are long.
    """
    if isinstance(updates, Mixtures):
        return updates.weights @ inner_products(updates.sources, model) @ updates.weights.T
    n = len(updates)
    products = _row_products(updates)
    squares = products.new_zeros(n)
    squares.index_add_(0, updates.row_owner, torch.linalg.vector_norm(updates.rows, dim=1).double().square())
    for block in torch.split(updates.shared, max(1, CELLS // n), dim=1):
        shared = block.double()
        products += shared @ shared.T
    products = products.where(products.isfinite(), 0)
    products += squares.nan_to_num(OVERFLOWN, OVERFLOWN).clamp(max=OVERFLOWN).diag()
    if model is not None and model.weight_decay:
        common, share = model.common, updates.l2_share.double()
        inner = updates.inner(common).double()
        parts = (common.items, common.shared)
        constant = sum(torch.linalg.vector_norm(part).double().square() for part in parts)
        products += share.unsqueeze(1) * inner + (share.unsqueeze(1) * inner).T
        products += share.unsqueeze(1) * share * constant
    return products


def _row_products(updates: Updates) -> Tensor:
    """(n, n) float64: ⟨g_a, g_b⟩ over the item rows for a ≠ b, zeros for a = b."""
    n = len(updates)

    def products(blocks: list[Columns]) -> Tensor:
        total = updates.rows.new_zeros(n * n, dtype=torch.float64)
        for columns in blocks:
            pairs = columns.owners.unsqueeze(2) * n + columns.owners.unsqueeze(1)
            rows = columns.rows()
            total.scatter_add_(0, pairs.flatten(), torch.bmm(rows, rows.transpose(1, 2)).flatten().double())
        return total

    # Always as many sums, so that what they round to does not depend on the number of threads.
    blocks = list(item_columns(updates, fewest=2))
    parts = side_by_side(products, [blocks[start::PARTIAL_SUMS] for start in range(PARTIAL_SUMS)])
    return torch.stack(parts).sum(0).view(n, n).fill_diagonal_(0)


def distances_to(products: Tensor, weights: Tensor) -> Tensor:
    """(n,) ‖g_i − Σ_j w_j g_j‖, from inner products (n, n) and weights (n,)."""
    towards = products @ weights
    return (products.diagonal() - 2 * towards + weights @ towards).clamp(min=0).sqrt()


def cosines(products: Tensor) -> Tensor:
    """(n, n) the cosine similarities, within [−1, 1]; 0 with an update of zeros."""
    norms = products.diagonal().clamp(min=0).sqrt()
    scale = norms.unsqueeze(1) * norms
    return torch.where(scale > 0, products / scale.clamp(min=torch.finfo(scale.dtype).tiny), 0).clamp(-1, 1)


def combination(updates: Updates, num_items: int, weights: Tensor) -> Gradient:
    """Σ_k w_k g_k for weights (n,) from 0 on, which need not sum to 1."""
    mean = updates.weighted_mean(num_items, weights)
    total = float(weights.sum())
    return Gradient(mean.items * total, mean.shared * total, mean.l2 * total)


def middle(values: Tensor) -> float:
    """The median of (n,) values; for an even n the mean of the middle two."""
    return float(values.double().quantile(0.5))
