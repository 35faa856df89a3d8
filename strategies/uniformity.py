"""Uniformity of the item vectors (the paper, Eq. 6) after a step with each update alone."""

from __future__ import annotations

import torch
from torch import Tensor

from protocol.updates import Updates, splits_of
from strategies.server_model import ServerModel

CELLS = 1 << 19
"""Distances in one chunk: two megabytes, so that a chunk stays in the cache between its passes."""


def uniformities(updates: Updates, model: ServerModel, items: Tensor) -> Tensor:
    """(n,) float64: the mean pairwise distance of the rows ``items`` (k,) after an Adam step with each update alone.

    d_c = Σ_{a≠b} ‖e_a − e_b‖ / (k(k−1)). Rows that an update does not touch become the same whoever sent
    it, so that their distances are computed once; for each update only those of its t touched rows to
    all k are new. Zeros where k < 2.
    """
    n, k = len(updates), len(items)
    if k < 2:
        return updates.rows.new_zeros(n, dtype=torch.float64)
    untouched = model.preview_rows(items, model.items.new_zeros(k, model.items.shape[1]))
    centre = untouched.mean(0)
    base = untouched - centre

    owners, places, gradients = _drawn_rows(updates, model, items)
    rows = model.preview_rows(items[places], gradients) - centre
    touched = torch.zeros(n, k, dtype=torch.float64, device=base.device)
    touched[owners, places] = 1

    common = _distances(base.unsqueeze(0), base.unsqueeze(0))[0].fill_diagonal_(0).double()
    from_touched = touched @ common
    # Σ over untouched pairs: all pairs, less twice those with a touched row, plus the touched pairs taken away twice.
    totals = common.sum() - 2 * from_touched.sum(1) + (from_touched * touched).sum(1)
    return (totals + _moved_distances(base, rows, owners, places, touched)) / (k * (k - 1))


def _drawn_rows(updates: Updates, model: ServerModel, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The drawn rows that each update moves: owner (r,), place among the drawn (r,), gradient (r, d); by owner.

    An update with another share of the L2 term than 1 moves every row: it is made explicit there.
    """
    place = torch.full((len(model.items),), -1, device=items.device).scatter_(
        0, items, torch.arange(len(items), device=items.device)
    )
    where = place[updates.items]
    drawn = (where >= 0).nonzero().flatten()
    owners, places, gradients = updates.row_owner[drawn], where[drawn], updates.rows[drawn]
    odd = (updates.l2_share != 1).nonzero().flatten()
    if not len(odd):
        return owners, places, gradients
    even = torch.isin(owners, odd, invert=True)
    dense = gradients.new_zeros(len(updates), len(items), gradients.shape[1])[odd]
    position = torch.full((len(updates),), -1, device=odd.device).scatter_(
        0, odd, torch.arange(len(odd), device=odd.device)
    )
    dense[position[owners[~even]], places[~even]] = gradients[~even]
    dense += (updates.l2_share[odd] - 1).view(-1, 1, 1) * model.weight_decay * model.items[items]
    owners = torch.cat([owners[even], odd.repeat_interleave(len(items))])
    places = torch.cat([places[even], torch.arange(len(items), device=items.device).repeat(len(odd))])
    gradients = torch.cat([gradients[even], dense.flatten(0, 1)])
    order = owners.argsort(stable=True)
    return owners[order], places[order], gradients[order]


def _moved_distances(base: Tensor, rows: Tensor, owners: Tensor, places: Tensor, touched: Tensor) -> Tensor:
    """(n,) the sum over ordered pairs with at least one moved row of their distance after the step."""
    n, k = touched.shape
    counts = torch.bincount(owners, minlength=n)
    starts = splits_of(counts)[:-1]
    sums = touched.new_zeros(n)
    by_count = counts.argsort()
    sizes = counts[by_count].tolist()
    low = 0
    while low < n:
        high = low + 1
        while high < n and sizes[high] * k * (high + 1 - low) <= CELLS:
            high += 1
        longest = sizes[high - 1]
        if longest:
            users = by_count[low:high]
            steps = torch.arange(longest, device=base.device)
            real = steps < counts[users].unsqueeze(1)
            positions = (starts[users].unsqueeze(1) + steps).where(real, starts[users].unsqueeze(1))
            positions = positions.clamp(max=len(rows) - 1)
            moved, place = rows[positions], places[positions]
            after = base.expand(len(users), k, -1).clone()
            after.scatter_(1, place.unsqueeze(2).expand_as(moved), moved)
            distances = _distances(moved, after)
            distances.scatter_(2, place.unsqueeze(2), 0)
            sides = torch.stack([torch.ones_like(touched[users]), touched[users]], 2).to(base.dtype)
            to_all, to_moved = (torch.bmm(distances, sides).double() * real.unsqueeze(2)).sum(1).unbind(1)
            sums[users] = 2 * to_all - to_moved
        low = high
    return sums


def _distances(left: Tensor, right: Tensor) -> Tensor:
    """(c, a, b) Euclidean distances between rows (c, a, d) and (c, b, d), by one matrix product."""
    left_squares = left.square().sum(2, keepdim=True)
    right_squares = right.square().sum(2, keepdim=True)
    extended_left = torch.cat([-2 * left, left_squares, torch.ones_like(left_squares)], 2)
    extended_right = torch.cat([right, torch.ones_like(right_squares), right_squares], 2)
    return torch.bmm(extended_left, extended_right.transpose(1, 2)).clamp_(min=0).sqrt_()
