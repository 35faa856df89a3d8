"""UNION's contrastive task on a client (Eq. 4): items of one user attract, other items repel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.rows import as_numbers, pieces

CHUNK = 256
"""Examples at a time: with 17 vectors each, the temporaries of so many stay in a core's cache."""


@dataclass(frozen=True)
class ContrastiveDraws:
    """What a cohort of n users drew for the task: M examples of an anchor, a positive and k negatives.

    ``splits`` (n+1,): the examples of each user, none where the task is skipped; ``items`` (M, 2+k) int64:
    anchor, positive, negatives; ``keep`` (M, 2+k, d) bool: the coordinates that dropout left (``None``: no
    dropout), ``dropout`` its probability.
    """

    splits: Tensor
    items: Tensor
    keep: Tensor | None = None
    dropout: float = 0.0

    @property
    def owner(self) -> Tensor:
        """(M,) position of the user whose example it is."""
        users = torch.arange(len(self.splits) - 1, device=self.splits.device)
        return users.repeat_interleave(self.splits.diff(), output_size=len(self.items))

    def to(self, device: torch.device) -> ContrastiveDraws:
        """The same on another device."""
        keep = None if self.keep is None else self.keep.to(device)
        return ContrastiveDraws(self.splits.to(device), self.items.to(device), keep, self.dropout)


def add_contrastive(table: Tensor, draws: ContrastiveDraws, weight: float, rows: Tensor, slots: Tensor) -> Tensor:
    """Add ``weight``·∂L_CL/∂E to ``rows`` at ``slots`` (M, 2+k); return the users' losses L_CL (n,).

    L_CL(u) = −(1/n_u) Σ_i ln( exp(e_i·e_i⁺) / (exp(e_i·e_i⁺) + Σ exp(e_i·e_i⁻)) ), on vectors after dropout.
    """
    counts = draws.splits.diff()
    shares = 1.0 / counts.clamp(min=1).to(table.dtype)
    losses = table.new_zeros(len(counts))
    owner, width = draws.owner, draws.items.shape[1]
    # Dropout scales both vectors of a product by this: the products are scaled instead of the vectors.
    scale = 1.0 if draws.keep is None else (1.0 - draws.dropout) ** -2
    for part in pieces(draws.splits, CHUNK):
        users, items = owner[part], draws.items[part]
        vectors = table.index_select(0, items.flatten()).view(len(users), width, -1)
        keep = None if draws.keep is None else as_numbers(draws.keep[part], table.dtype)
        if keep is not None:
            vectors.mul_(keep)
        anchor, others = vectors[:, 0], vectors[:, 1:]
        logits = torch.linalg.vecdot(others, anchor.unsqueeze(1)).mul_(scale)
        logarithms = torch.log_softmax(logits, 1)
        losses.index_add_(0, users, -logarithms[:, 0] * shares[users])
        slope = logarithms.exp_()
        slope[:, 0] -= 1
        slope.mul_((weight * scale * shares[users]).unsqueeze(1))
        gradients = torch.empty_like(vectors)
        gradients[:, 0] = torch.bmm(slope.unsqueeze(1), others).squeeze(1)
        torch.mul(slope.unsqueeze(2), anchor.unsqueeze(1), out=gradients[:, 1:])
        if keep is not None:
            gradients.mul_(keep)
        rows.index_add_(0, slots[part].flatten(), gradients.flatten(0, 1))
    return losses
