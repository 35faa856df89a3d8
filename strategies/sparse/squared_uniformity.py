"""Uniformity as the paper's Eq. 6 is printed: the mean squared distance, which needs no distance to be computed."""

from __future__ import annotations

import torch
from torch import Tensor

from protocol.updates import Updates
from strategies.server_model import ServerModel
from strategies.sparse.uniformity import moved_rows


def squared_uniformities(updates: Updates, model: ServerModel, items: Tensor) -> Tensor:
    """(n,) float64: the mean squared pairwise distance of the rows ``items`` (k,) after a step with each update alone.

    d_c = Σ_{a≠b} ‖e_a − e_b‖² / (k(k−1)) = 2 (k Σ_a ‖e_a‖² − ‖Σ_a e_a‖²) / (k(k−1)), of which a row that an update
    does not touch has the same part whoever sent it. Zeros where k < 2.
    """
    n, k = len(updates), len(items)
    if k < 2:
        return updates.rows.new_zeros(n, dtype=torch.float64)
    drawn = model.restricted_to(items)
    untouched = drawn.preview_rows(torch.arange(k, device=items.device), torch.zeros_like(drawn.items)).double()
    # Distances do not change with the origin, and squares are exact near it.
    centre = untouched.mean(0)
    base = untouched - centre
    moved = moved_rows(updates, model, items)
    after = drawn.preview_rows(moved.places, moved.gradients).double() - centre
    before = base[moved.places]
    sums = base.sum(0).expand(n, -1).clone().index_add_(0, moved.owners, after - before)
    changed = after.square().sum(1) - before.square().sum(1)
    squares = base.square().sum().expand(n).clone().index_add_(0, moved.owners, changed)
    return 2 * (k * squares - sums.square().sum(1)) / (k * (k - 1))
