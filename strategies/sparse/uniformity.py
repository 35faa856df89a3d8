"""Uniformity of the item vectors (the paper, Eq. 6) after a step with each update alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.kernels.uniformity import distances_beyond, distances_without, moved_first
from protocol.updates import Updates, splits_of
from strategies.server_model import ServerModel
from strategies.sparse.side_by_side import side_by_side

CELLS = 1 << 19
"""Distances in one chunk: two megabytes, so that a chunk stays in the cache between its passes."""

ROWS = 128
"""Moved rows that are multiplied together: more multiply faster, and of their own pairs half is thrown away."""


def uniformities(updates: Updates, model: ServerModel, items: Tensor) -> Tensor:
    """(n,) float64: the mean pairwise distance of the rows ``items`` (k,) after an Adam step with each update alone.

    d_c = Σ_{a≠b} ‖e_a − e_b‖ / (k(k−1)). Rows that an update does not touch become the same whoever sent
    it, so that their distances are computed once; for each update only those of its t touched rows to
    all k are new. Zeros where k < 2.
    """
    n, k = len(updates), len(items)
    if k < 2:
        return updates.rows.new_zeros(n, dtype=torch.float64)
    drawn = model.restricted_to(items)
    untouched = drawn.preview_rows(torch.arange(k, device=items.device), torch.zeros_like(drawn.items))
    centre = untouched.mean(0)
    base = untouched - centre

    moved = moved_rows(updates, model, items)
    if base.device.type == "cpu" and base.dtype in (torch.float32, torch.float64):
        return _compiled(moved, drawn, base, centre, n) / (k * (k - 1))
    touched = torch.zeros(n, k, dtype=torch.float64, device=base.device)
    touched[moved.owners, moved.places] = 1

    common = _distances(base.unsqueeze(0), base.unsqueeze(0))[0].fill_diagonal_(0).double()
    from_touched = touched @ common
    # Σ over untouched pairs: all pairs, less twice those with a touched row, plus the touched pairs taken away twice.
    totals = common.sum() - 2 * from_touched.sum(1) + (from_touched * touched).sum(1)

    counts = torch.bincount(moved.owners, minlength=n)
    starts = splits_of(counts)[:-1]

    def add_moved(users: Tensor) -> None:
        steps = torch.arange(int(counts[users].max()), device=users.device)
        real = steps < counts[users].unsqueeze(1)
        # Padding repeats the user's first row.
        rows = starts[users].unsqueeze(1) + steps * real
        place = moved.places[rows]
        gradients = moved.gradients.index_select(0, rows.flatten())
        step = drawn.preview_rows(place.flatten(), gradients) - centre
        step = step.view(*place.shape, -1)
        after = base.expand(len(users), k, -1).scatter(1, place.unsqueeze(2).expand_as(step), step)
        distances = _distances(step, after).scatter_(2, place.unsqueeze(2), 0)
        # Pairs of a moved and an unmoved row count twice, those of two moved rows are met twice.
        to_place = torch.bmm(real.to(distances.dtype).unsqueeze(1), distances).squeeze(1).double()
        totals[users] += (to_place * (2 - touched[users])).sum(1)

    # No two chunks share a user.
    side_by_side(add_moved, _chunks(counts, k))
    return totals / (k * (k - 1))


def _compiled(moved: MovedRows, drawn: ServerModel, base: Tensor, centre: Tensor, n: int) -> Tensor:
    """(n,) float64: the sums over all ordered pairs of rows, on a CPU."""
    steps = drawn.preview_rows(moved.places, moved.gradients).numpy()
    common = _distances(base.unsqueeze(0), base.unsqueeze(0))[0].fill_diagonal_(0).numpy()
    row_sums = common.sum(1, dtype=np.float64)
    rows, origin, places = base.contiguous().numpy(), centre.numpy(), moved.places.contiguous().numpy()
    splits = splits_of(torch.bincount(moved.owners, minlength=n)).tolist()

    def of_user(user: int) -> float:
        own = slice(splits[user], splits[user + 1])
        count = splits[user + 1] - splits[user]
        ordered, squares = torch.empty(base.shape, dtype=base.dtype), np.empty(len(base), rows.dtype)
        moved_first(rows, places[own], steps[own], origin, ordered.numpy(), squares)
        total = distances_without(common, row_sums, places[own])
        # Each pair of a moved row and another is met once: a moved one with all that stand behind it.
        for first in range(0, count, ROWS):
            products = ordered[first : min(first + ROWS, count)] @ ordered[first:].T
            total += 2 * distances_beyond(products.numpy(), squares[first:])
        return total

    return torch.tensor(side_by_side(of_user, range(n)), dtype=torch.float64)


@dataclass(frozen=True)
class MovedRows:
    """Touched drawn rows by owner: ``owners`` (r,), ``places`` (r,) among the drawn, ``gradients`` (r, d)."""

    owners: Tensor
    places: Tensor
    gradients: Tensor


def _chunks(counts: Tensor, k: int) -> list[Tensor]:
    """The users (c,) whose ``counts`` of moved rows are alike, so that a chunk has about ``CELLS`` distances.

    Those without any are left out; the largest chunks come first.
    """
    order = counts.argsort()
    sizes = counts[order].tolist()
    low, chunks = sum(size == 0 for size in sizes), []
    while low < len(sizes):
        high = low + 1
        while high < len(sizes) and sizes[high] * k * (high + 1 - low) <= CELLS:
            high += 1
        chunks.append(order[low:high])
        low = high
    return chunks[::-1]


def moved_rows(updates: Updates, model: ServerModel, items: Tensor) -> MovedRows:
    """The drawn rows that each update moves.

    An update with another share of the L2 term than 1 moves every row: it is made explicit there.
    """
    place = torch.full((len(model.items),), -1, device=items.device).scatter_(
        0, items, torch.arange(len(items), device=items.device)
    )
    where = place[updates.items]
    drawn = (where >= 0).nonzero().flatten()
    owners, places, gradients = updates.row_owner[drawn], where[drawn], updates.rows.index_select(0, drawn)
    odd = (updates.l2_share != 1).nonzero().flatten()
    if not len(odd):
        return MovedRows(owners, places, gradients)
    even = torch.isin(owners, odd, invert=True)
    dense = gradients.new_zeros(len(updates), len(items), gradients.shape[1])[odd]
    position = torch.full((len(updates),), -1, device=odd.device).scatter_(
        0, odd, torch.arange(len(odd), device=odd.device)
    )
    dense[position[owners[~even]], places[~even]] = gradients[~even]
    dense += (updates.l2_share[odd] - 1).view(-1, 1, 1) * model.common.items[items]
    owners = torch.cat([owners[even], odd.repeat_interleave(len(items))])
    places = torch.cat([places[even], torch.arange(len(items), device=items.device).repeat(len(odd))])
    gradients = torch.cat([gradients[even], dense.flatten(0, 1)])
    order = owners.argsort(stable=True)
    return MovedRows(owners[order], places[order], gradients[order])


def _distances(left: Tensor, right: Tensor) -> Tensor:
    """(c, a, b) Euclidean distances between rows (c, a, d) and (c, b, d), by one matrix product."""
    left_squares = left.square().sum(2, keepdim=True)
    right_squares = right.square().sum(2, keepdim=True)
    extended_left = torch.cat([-2 * left, left_squares, torch.ones_like(left_squares)], 2)
    extended_right = torch.cat([right, torch.ones_like(right_squares), right_squares], 2)
    return torch.bmm(extended_left, extended_right.transpose(1, 2)).clamp_(min=0).sqrt_()
