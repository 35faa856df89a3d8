"""Order statistics per coordinate, where values not sent are zeros and are never written out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.kernels import order
from models.kernels.bounds import has_kernels
from protocol.updates import Gradient, Updates
from strategies.server_model import ServerModel
from strategies.sparse.item_columns import CELLS, Columns, item_columns
from strategies.sparse.l2_share import with_whole_l2
from strategies.sparse.side_by_side import side_by_side

Centre = Callable[[Tensor], Tensor]
"""From the rows (m, t, d) of t users to one row (m, d), each coordinate by itself."""


def ascending(values: Tensor) -> Tensor:
    """The values sorted along the last axis. On a CPU by NumPy, whose vectorised sort is ten times torch's."""
    if values.device.type != "cpu":
        return values.sort(dim=-1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=-1))


def ordered_columns(rows: Tensor) -> Tensor:
    """(m, d, t): the values of each coordinate of (m, t, d) in ascending order."""
    return ascending(rows.transpose(1, 2).contiguous())


def middle_mean(rows: Tensor, total: int, low: int, high: int) -> Tensor:
    """(m, d): the mean of the order statistics low, …, high−1 of ``total`` values: the t of (m, t, d), the rest zeros.

    The zeros stand between the negative and the positive values: the negative ones keep their place in the
    order, the positive ones move up by the number of zeros, and the zeros add nothing.
    """
    if has_kernels(rows):
        return torch.from_numpy(order.middle_means(rows.contiguous().numpy(), total, low, high))
    return order_sum(ordered_columns(rows), total, low, high) / (high - low)


def order_sum(ordered: Tensor, total: int, low: int, high: int) -> Tensor:
    """(m, d): the sum of the order statistics low, …, high−1 of ascending values (m, d, t) and ``total`` − t zeros."""
    negative, positive = _both_sides(ordered, total, low, high)
    return negative.sum(-1) + positive.sum(-1)


def order_statistics(ordered: Tensor, total: int, low: int, high: int) -> Tensor:
    """(m, d, high − low): these order statistics themselves, ascending."""
    negative, positive = _both_sides(ordered, total, low, high)
    width = high - low
    return functional.pad(negative, (0, width - negative.shape[-1])) + functional.pad(
        positive, (width - positive.shape[-1], 0)
    )


def _both_sides(ordered: Tensor, total: int, low: int, high: int) -> tuple[Tensor, Tensor]:
    zeros = total - ordered.shape[-1]
    negative = ordered[..., low:high].clamp(max=0)
    positive = ordered[..., max(low - zeros, 0) : max(high - zeros, 0)].clamp(min=0)
    return negative, positive


def coordinate_wise(updates: Updates, model: ServerModel, centre: Centre, fewest: int = 1) -> Gradient:
    """One gradient, each coordinate a statistic of all n users' values, where rows not sent are zeros.

    ``centre`` gets the t sent rows of each item and must allow for the n − t zeros; an item that fewer than
    ``fewest`` users touched gets zeros.
    """
    whole = with_whole_l2(updates, model.common)
    items = whole.rows.new_zeros(len(model.items), whole.dim)

    def settle(columns: Columns) -> None:
        items[columns.items] = centre(columns.rows())

    side_by_side(settle, item_columns(whole, fewest))
    return Gradient(items, shared_centre(whole.shared, centre))


def shared_centre(shared: Tensor, centre: Centre) -> Tensor:
    """(p,): ``centre`` of the users' shared parameters (n, p), a block of coordinates at a time."""
    blocks = torch.split(shared, max(1, CELLS // len(shared)), dim=1)
    return torch.cat([centre(block.unsqueeze(0)).squeeze(0) for block in blocks])
