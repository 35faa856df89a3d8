"""The two regularisers of PIECK's authors in benign training (Zhang et al., ICDE 2024), against promoted items.

Popular items are the N rows that moved furthest since the first model, as the attack mines them; the k-th of them
weighs w_k ∝ (N − k + 1)². What is added to a user's loss, in the form of the authors' program:

* item_weight · −Σ_k w_k mean_j cos(e_k, e_j) over the user's other rows j: where all rows lie near the popular ones, a
  target that is drawn to these wins nothing;
* user_weight · −Σ_k w_k KL(softmax(p_u) ‖ softmax(e_k)) / d: popular rows do not pass for users.

Popular rows are constants.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from models.recommenders.loss import LossOptions
from models.recommenders.recommender import CohortGradient


def popular_rows(table: Tensor, first: Tensor, count: int) -> Tensor:
    """(k,) the ``count`` items whose rows moved furthest from the ``first`` table, the furthest first; ties by item.

    Fewer where fewer rows have moved at all.
    """
    moved: Tensor = torch.linalg.vector_norm(table - first, dim=1)
    furthest = moved.argsort(descending=True, stable=True)[:count]
    return furthest[moved[furthest] > 0]


def regularised(
    gradient: CohortGradient, table: Tensor, first: Tensor, vectors: Tensor, loss: LossOptions
) -> CohortGradient:
    """The gradients and losses of a cohort with both terms added.

    ``table`` and ``first`` (num_items, d): the item rows now and before the first round; ``vectors`` (n, d) the users'
    private vectors, (n, 0) for a model without, which has no second term.
    """
    popular = popular_rows(table, first, loss.pieck_items)
    if not len(popular):
        return gradient
    weights = torch.arange(len(popular), 0, -1, dtype=table.dtype, device=table.device).square()
    weights = (weights / weights.sum()).unsqueeze(1)
    found = gradient
    if loss.pieck_item_weight:
        found = _near_popular(found, table, popular, weights, loss.pieck_item_weight)
    if loss.pieck_user_weight and vectors.shape[1]:
        found = _unlike_popular(found, table[popular], weights, vectors, loss.pieck_user_weight)
    return found


def _near_popular(
    gradient: CohortGradient, table: Tensor, popular: Tensor, weights: Tensor, weight: float
) -> CohortGradient:
    counts = gradient.row_splits.diff()
    owner = torch.arange(len(counts), device=table.device).repeat_interleave(counts)
    others = ~torch.isin(gradient.items, popular)
    shares = weight / torch.zeros_like(gradient.losses).index_add_(0, owner[others], others[others].to(table.dtype))
    rows, share = _units(table[gradient.items[others]]), shares[owner[others]].unsqueeze(1)
    centre = (_units(table[popular])[0] * weights).sum(0)
    cosines = (rows[0] * centre).sum(1, keepdim=True)
    added = gradient.rows.clone()
    added[others] -= share * (centre - cosines * rows[0]) / rows[1]
    losses = gradient.losses.index_add(0, owner[others], -(share * cosines).squeeze(1))
    return replace(gradient, rows=added, losses=losses)


def _unlike_popular(
    gradient: CohortGradient, rows: Tensor, weights: Tensor, vectors: Tensor, weight: float
) -> CohortGradient:
    logarithms = vectors.log_softmax(1)
    excess = logarithms - (rows.log_softmax(1) * weights).sum(0)
    shares = logarithms.exp()
    divergence = (shares * excess).sum(1, keepdim=True)
    scale = weight / vectors.shape[1]
    return replace(
        gradient,
        vectors=gradient.vectors - scale * shares * (excess - divergence),
        losses=gradient.losses - scale * divergence.squeeze(1),
    )


def _units(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1, and the lengths (n, 1) that they had."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    return rows / lengths, lengths
