"""Every user's own SASRec gradient in one pass over the cohort.

Each user of a batch gets a copy of the shared parameters: a view of stride 0, so that it costs no memory. The
gradient of the *sum* of the users' losses by these copies is then every user's own gradient, and
autograd computes it in batched matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.recommenders import dropout, sasrec
from models.recommenders.contrastive import ContrastiveDraws, add_contrastive
from models.recommenders.recommender import CohortGradient
from models.recommenders.sasrec import Masks, Shape
from models.recommenders.sasrec_batches import Batch, batches
from models.rows import row_slots

LOG_EPSILON = 1e-8
"""The paper's loss adds it inside the logarithm (Eq. 1)."""

LANES = 64
"""A multiple of how many numbers a CPU's vector loop takes at a time."""


@dataclass(frozen=True)
class Histories:
    """The train items of n users in order of time, and the pair that is judged where each item arrives.

    User k's are ``splits[k]:splits[k+1]`` (n+1,) of ``items``, ``positives`` and ``negatives``, all (t,) int64.
    The pair at a place is scored from the items *before* it, so that a user's first pair is never used.
    An honest user's ``positives`` are its ``items``.
    """

    splits: Tensor
    items: Tensor
    positives: Tensor
    negatives: Tensor


def cohort_gradient(
    table: Tensor,
    shared: Tensor,
    shape: Shape,
    histories: Histories,
    *,
    probability: float = 0.0,
    keys: Tensor | None = None,
    contrastive: ContrastiveDraws | None = None,
    contrastive_weight: float = 1.0,
    max_batch_tokens: int = 4096,
) -> CohortGradient:
    """Each user's gradient of −mean ln(σ(s_pos − s_neg) + 1e-8) over its pairs, by item rows and shared vector.

    ``table`` (num_items, d), ``shared`` (p,). Histories longer than ``shape.max_length`` + 1 lose their
    oldest items. A user with a single train item has no pair: loss 0, no rows, shared gradient 0. With a
    dropout ``probability`` above 0, ``keys`` (n,) int64 name each user's random numbers (``dropout.user_keys``):
    a user's result depends on its own key and history, not on the others. UNION's contrastive loss is added
    where draws for it are given. At most ``max_batch_tokens`` positions are worked on at a time, padding
    included, but at least one user's.
    Raises ``ValueError`` where dropout has no keys, or ``shared`` is not of the shape's size.
    """
    if probability > 0 and keys is None:
        raise ValueError("Dropout needs a key for every user: pass keys, or probability = 0.")
    parts = sasrec.split(shared.detach(), shape)
    lengths = (histories.splits.diff() - 1).clamp(min=0, max=shape.max_length)
    touched, owner = _touched(histories, lengths)
    contributors, items = [owner.repeat(3)], [touched.flatten()]
    if contrastive is not None:
        contributors.append(contrastive.owner.repeat_interleave(contrastive.items.shape[1]))
        items.append(contrastive.items.flatten())
    place = row_slots(torch.cat(contributors), torch.cat(items), len(lengths), len(table))
    slots, contrastive_slots = place.slots[: touched.numel()].view_as(touched), place.slots[touched.numel() :]

    losses = table.new_zeros(len(lengths))
    rows = table.new_zeros(len(place.items), shape.dim)
    gradients = table.new_zeros(len(lengths), len(shared))
    for batch in batches(lengths.cumsum(0), lengths, shape.max_length, max_batch_tokens):
        masks = None
        if keys is not None and probability > 0:
            masks = draw_masks(keys[batch.users], batch.places.shape[1], shape, probability, table.dtype)
        gathered = functional.embedding(touched[:, batch.places], table)
        losses[batch.users], by_row, by_part = _batch_gradient(gathered, parts, shape, batch, masks)
        # At the padding the gradient is 0, and its slots are the user's own.
        rows.index_add_(0, slots[:, batch.places].flatten(), by_row.flatten(0, 2))
        gradients[batch.users] = torch.cat([part.flatten(1) for part in by_part], dim=1)
    if contrastive is not None:
        slots_of_draws = contrastive_slots.view_as(contrastive.items)
        losses += contrastive_weight * add_contrastive(table, contrastive, contrastive_weight, rows, slots_of_draws)
    nothing = table.new_empty(len(lengths), 0)
    return CohortGradient(lengths, losses, place.row_splits, place.items, rows, gradients, nothing)


def draw_masks(keys: Tensor, width: int, shape: Shape, probability: float, dtype: torch.dtype) -> Masks:
    """Dropout's factors for users with keys (b,) int64 at T = ``width`` positions, counted from the oldest."""
    sites = dropout.spread(keys, 1 + 3 * shape.blocks)
    split = 1 + 2 * shape.blocks
    return Masks(
        tokens=dropout.factors(sites[:, :split], width, shape.dim, probability, dtype),
        attention=dropout.factors(sites[:, split:], width, width, probability, dtype),
    )


def pair_losses(states: Tensor, difference: Tensor, real: Tensor) -> Tensor:
    """(…,) the mean of −ln(σ(h · (e_pos − e_neg)) + 1e-8) over the real positions.

    ``states`` and ``difference`` = e_pos − e_neg (…, T, d), ``real`` (…, T) bool with at least one true.
    """
    # A vector unit takes whole lanes; what is left at an array's end is computed by another formula for the same
    # function. Whole lanes for every user, then, or the last bit would depend on who else is in the batch.
    lanes = (0, -real.shape[-1] % LANES)
    margins = functional.pad((states * difference).sum(-1), lanes)
    terms = (margins.sigmoid() + LOG_EPSILON).log()
    return -torch.where(functional.pad(real, lanes), terms, 0).sum(-1) / real.sum(-1)


def _touched(histories: Histories, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The items (3, m) of all m pairs, input, positive and negative, and whose pair each is (m,)."""
    users = torch.arange(len(lengths), device=lengths.device)
    total = int(lengths.sum())
    owner = users.repeat_interleave(lengths, output_size=total)
    # A user's pairs are the last ones of its history.
    shift = histories.splits[1:] - lengths.cumsum(0)
    places = torch.arange(total, device=lengths.device) + shift[owner]
    touched = (histories.items[places - 1], histories.positives[places], histories.negatives[places])
    return torch.stack(touched), owner


def _batch_gradient(
    gathered: Tensor, parts: tuple[Tensor, ...], shape: Shape, batch: Batch, masks: Masks | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One batch's losses (b,) and gradients: of ``gathered`` (3, b, T, d), and of each parameter, (b, …)."""
    index = sasrec.position_index(batch.lengths, gathered.shape[2], shape)
    inputs = sasrec.embed(gathered[0], parts[0][index]).requires_grad_()
    difference = (gathered[1] - gathered[2]).requires_grad_()
    copies = [part.expand(len(inputs), *part.shape).requires_grad_() for part in parts[1:]]
    with torch.enable_grad():
        states = sasrec.encode(inputs, sasrec.as_weights((parts[0], *copies)), masks)
        losses = pair_losses(states, difference, batch.real)
        by_input, by_difference, *by_copies = torch.autograd.grad(losses.sum(), [inputs, difference, *copies])
    # A position's row enters as the item's does, but unscaled.
    by_position = by_input.new_zeros(len(inputs), *parts[0].shape)
    by_position.scatter_add_(1, index.unsqueeze(-1).expand_as(by_input), by_input)
    by_row = torch.stack((by_input * math.sqrt(shape.dim), by_difference, -by_difference))
    return losses.detach(), by_row, [by_position, *by_copies]
