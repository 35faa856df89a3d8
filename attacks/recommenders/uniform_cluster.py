"""ClusterAttack against UNION: as much of the poisoned update as its users' own honest updates can cover up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.recommenders.cluster import ClusterAttack, dense_rows, dense_updates
from attacks.view import AttackerView
from protocol.updates import Updates

ITEMS = 200
"""Items on which the attacker measures uniformity; UNION draws its own, which nobody else knows."""
HALVINGS = 8
FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8
"""Adam's usual constants."""


class UniformClusterAttack(ClusterAttack):
    """ClusterAttack whose uploads keep the item vectors as uniform as an honest user's update may leave them.

    It assumes that the server runs UNION (the paper, Algorithms 2 and 3) and steps by Adam. Each upload is
    (1 − t)·honest + t·poisoned, with the largest t in [0, 1] at which the uniformity after a step with it alone is
    within the range of the attacker's own honest updates. The optimizer's moments, which only the server has, are taken
    to be those of these updates.
    """

    def poison(self, view: AttackerView) -> Updates:
        """Each selected user's own mixture."""
        poisoned = super().poison(view)
        num_items = len(view.model.items)
        drawn = torch.from_numpy(view.generator.choice(num_items, min(ITEMS, num_items), replace=False))
        sample = rows_of(view.sample_honest(), drawn, num_items)
        preview = preview_of(view, drawn, sample)
        lowest = min(preview.uniformity(rows) for rows in sample)
        honest, target = dense_rows(view.honest, num_items), dense_rows(poisoned, num_items)
        shares = [preview.largest_share(h[drawn], t[drawn], lowest) for h, t in zip(honest, target, strict=True)]
        share = torch.tensor(shares, dtype=honest.dtype, device=honest.device).view(-1, 1, 1)
        mixed = (1 - share) * honest + share * target
        if self.options.rows == "touched":
            return replace(view.honest, rows=mixed[view.honest.row_owner, view.honest.items])
        return dense_updates(view.honest, mixed)


def rows_of(updates: Updates, drawn: Tensor, num_items: int) -> Tensor:
    """(n, k, d): the rows of the ``drawn`` items (k,) alone, zeros if not sent. A sample of whole tables is large."""
    place = torch.full((num_items,), -1)
    place[drawn] = torch.arange(len(drawn))
    where = place[updates.items]
    sent = where >= 0
    rows = updates.rows.new_zeros(len(updates), len(drawn), updates.dim)
    rows[updates.row_owner[sent], where[sent]] = updates.rows[sent]
    return rows


@dataclass(frozen=True)
class Preview:
    """The attacker's guess of the server's next step on k drawn items; all tensors (k, d).

    ``first`` and ``second``: the optimizer's moments; ``decay``: λ.
    """

    rows: Tensor
    first: Tensor
    second: Tensor
    rate: float
    decay: float

    def uniformity(self, gradient: Tensor) -> float:
        """The mean pairwise distance (Eq. 6) of the rows after a step with one update's rows."""
        whole = gradient + self.decay * self.rows
        first = FIRST_DECAY * self.first + (1 - FIRST_DECAY) * whole
        second = SECOND_DECAY * self.second + (1 - SECOND_DECAY) * whole.square()
        stepped = self.rows - self.rate * first / (second.sqrt() + EPSILON)
        return float(torch.pdist(stepped).double().mean())

    def largest_share(self, honest: Tensor, poisoned: Tensor, lowest: float) -> float:
        """The largest share t of the poisoned rows with which uniformity is not below ``lowest``, by halving."""
        if self.uniformity(poisoned) >= lowest:
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = self.uniformity((1 - middle) * honest + middle * poisoned) >= lowest
            low, high = (middle, high) if fits else (low, middle)
        return low


def preview_of(view: AttackerView, drawn: Tensor, sample: Tensor) -> Preview:
    """From the honest rows (n, k, d) of the drawn items: a cohort's mean gradient has these moments."""
    loss, rows = view.request.loss, view.model.items[drawn]
    whole = sample + loss.weight_decay * rows
    mean = whole.mean(0)
    second = mean.square() + whole.var(0, correction=0) / view.clients_per_round
    return Preview(rows, mean, second, loss.learning_rate, loss.weight_decay)
