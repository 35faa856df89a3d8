"""Matrix factorization trained by BPR: the gradients of a whole cohort at once, in closed form.

Source: Rendle et al. 2009; the loss is Eq. 1 of the AAAI 2023 paper, without its L2 term, which the
optimizers add. Autograd gives the same numbers and takes three times as long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.recommenders.contrastive import ContrastiveDraws, add_contrastive
from models.recommenders.recommender import CohortGradient
from models.rows import as_numbers, pieces, row_slots

CHUNK = 1024
"""Pairs at a time: the temporaries of so many stay in a core's cache."""

LOG_OFFSET = 1e-8
"""Eq. 1 takes ln(σ(x) + 1e-8)."""


@dataclass(frozen=True)
class Pairs:
    """The training pairs of n users, one user after another.

    ``splits`` (n+1,); ``positives`` and ``negatives`` (N,) int64. ``keep`` (N, 3, d) bool: for each pair the
    coordinates that dropout left of the user's, the positive's and the negative's vector (``None``: no
    dropout), ``dropout`` its probability.
    """

    splits: Tensor
    positives: Tensor
    negatives: Tensor
    keep: Tensor | None = None
    dropout: float = 0.0

    @property
    def counts(self) -> Tensor:
        """(n,) pairs of each user."""
        return self.splits.diff()

    @property
    def owner(self) -> Tensor:
        """(N,) position of the user whose pair it is."""
        users = torch.arange(len(self.splits) - 1, device=self.splits.device)
        return users.repeat_interleave(self.counts, output_size=len(self.positives))

    def to(self, device: torch.device) -> Pairs:
        """The same on another device."""
        keep = None if self.keep is None else self.keep.to(device)
        return replace(
            self,
            splits=self.splits.to(device),
            positives=self.positives.to(device),
            negatives=self.negatives.to(device),
            keep=keep,
        )


def cohort_gradient(
    table: Tensor,
    vectors: Tensor,
    pairs: Pairs,
    contrastive: ContrastiveDraws | None = None,
    contrastive_weight: float = 1.0,
) -> CohortGradient:
    """∂L_u/∂E and ∂L_u/∂p_u of every user u of the cohort.

    ``table`` (num_items, d), ``vectors`` (n, d). L_u is the mean BPR loss over the user's pairs, plus
    ``contrastive_weight`` times UNION's contrastive loss where draws for it are given.
    """
    owner = pairs.owner
    contributors = [owner, owner]
    touched = [pairs.positives, pairs.negatives]
    if contrastive is not None:
        width = contrastive.items.shape[1]
        contributors.append(contrastive.owner.repeat_interleave(width))
        touched.append(contrastive.items.flatten())
    slots = row_slots(torch.cat(contributors), torch.cat(touched), len(vectors), len(table))
    rows = table.new_zeros(len(slots.items), table.shape[1])
    count = len(owner)
    vector_gradients, losses = _add_bpr(
        table, vectors, pairs, owner, rows, slots.slots[:count], slots.slots[count : 2 * count]
    )
    if contrastive is not None:
        slots_of_draws = slots.slots[2 * count :].view_as(contrastive.items)
        losses += contrastive_weight * add_contrastive(table, contrastive, contrastive_weight, rows, slots_of_draws)
    nothing = table.new_empty(len(vectors), 0)
    return CohortGradient(pairs.counts, losses, slots.row_splits, slots.items, rows, nothing, vector_gradients)


def _add_bpr(
    table: Tensor,
    vectors: Tensor,
    pairs: Pairs,
    owner: Tensor,
    rows: Tensor,
    positive_slots: Tensor,
    negative_slots: Tensor,
) -> tuple[Tensor, Tensor]:
    """Add the pairs' item gradients to ``rows``; return the vectors' gradients (n, d) and the losses (n,)."""
    vector_gradients = torch.zeros_like(vectors)
    losses = vectors.new_zeros(len(vectors))
    factor = 1 / (1 - pairs.dropout)
    weights = pairs.counts.clamp(min=1).to(table.dtype).reciprocal()
    for part in pieces(pairs.splits, CHUNK):
        users = owner[part]
        user = vectors.index_select(0, users)
        positive = table.index_select(0, pairs.positives[part])
        negative = table.index_select(0, pairs.negatives[part])
        keep = None
        if pairs.keep is not None:
            keep = as_numbers(pairs.keep[part], table.dtype).mul_(factor).unbind(1)
            user, positive, negative = user.mul_(keep[0]), positive.mul_(keep[1]), negative.mul_(keep[2])
        difference = positive.sub_(negative)
        # torch.sigmoid rounds the last few of a batch differently, so that a user's numbers would depend on others.
        sigma = torch.exp(-(user * difference).sum(1)).add_(1).reciprocal_()
        weight = weights[users]
        losses.index_add_(0, users, -weight * torch.log(sigma + LOG_OFFSET))
        slope = (-weight * sigma * (1 - sigma) / (sigma + LOG_OFFSET)).unsqueeze(1)
        user_gradient = difference.mul_(slope)
        positive_gradient = user.mul_(slope)
        negative_gradient = positive_gradient.neg()
        if keep is not None:
            user_gradient.mul_(keep[0])
            negative_gradient.mul_(keep[2])
            positive_gradient = positive_gradient.mul_(keep[1])
        vector_gradients.index_add_(0, users, user_gradient)
        rows.index_add_(0, positive_slots[part], positive_gradient)
        rows.index_add_(0, negative_slots[part], negative_gradient)
    return vector_gradients, losses
