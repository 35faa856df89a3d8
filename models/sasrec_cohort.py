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

from models import dropout, sasrec
from models.sasrec import Masks, Shape
from models.sasrec_batches import Batch, batches

LOG_EPSILON = 1e-8
"""The paper's loss adds it inside the logarithm (Eq. 1)."""


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


@dataclass(frozen=True)
class CohortGradient:
    """The gradients of n users, in the order in which the users came.

    ``num_pairs`` (n,) int64: how many pairs a user's loss is the mean of; ``losses`` (n,); user k's item rows
    are ``row_splits[k]:row_splits[k+1]`` (n+1,) of ``items`` (r,), strictly increasing within a user, and
    ``rows`` (r, d): ∂L_k/∂e_item; ``shared`` (n, p): ∂L_k/∂shared.
    """

    num_pairs: Tensor
    losses: Tensor
    row_splits: Tensor
    items: Tensor
    rows: Tensor
    shared: Tensor


@dataclass(frozen=True)
class _BatchGradient:
    """``losses`` (b,); ``rows`` (b, 3, T, d) by input, positive and negative; ``shared``: (b, …) per parameter."""

    losses: Tensor
    rows: Tensor
    shared: list[Tensor]


def cohort_gradient(
    table: Tensor,
    shared: Tensor,
    shape: Shape,
    histories: Histories,
    probability: float = 0.0,
    keys: Tensor | None = None,
    max_batch_tokens: int = 16384,
) -> CohortGradient:
    """Each user's gradient of −mean ln(σ(s_pos − s_neg) + 1e-8) over its pairs, by item rows and shared vector.

    ``table`` (num_items, d), ``shared`` (p,). Histories longer than ``shape.max_length`` + 1 lose their
    oldest items. A user with a single train item has no pair: loss 0, no rows, shared gradient 0. With a
    dropout ``probability`` above 0, ``keys`` (n,) int64 name each user's random numbers (``dropout.user_keys``):
    a user's result depends on its own key and history, not on the others. At most ``max_batch_tokens``
    positions are worked on at a time, padding included, but at least one user's.
    Raises ``ValueError`` where dropout has no keys, or ``shared`` is not of the shape's size.
    """
    if probability > 0 and keys is None:
        raise ValueError("Dropout needs a key for every user: pass keys, or probability = 0.")
    lengths = (histories.splits.diff() - 1).clamp(min=0, max=shape.max_length)
    losses = table.new_zeros(len(lengths))
    gradients = table.new_zeros(len(lengths), len(shared))
    parts = sasrec.split(shared.detach(), shape)
    owners, items, rows = [], [], []
    for batch in batches(histories.splits[1:], lengths, max_batch_tokens):
        masks = None
        if keys is not None and probability > 0:
            masks = draw_masks(keys[batch.users], batch.places.shape[1], shape, probability, table.dtype)
        touched = torch.stack(
            (
                # The item before each pair's place; at the padding (place 0) any item will do.
                histories.items[(batch.places - 1).clamp(min=0)],
                histories.positives[batch.places],
                histories.negatives[batch.places],
            ),
            dim=1,
        )
        result = _batch_gradient(table[touched], parts, shape, batch, masks)
        losses[batch.users] = result.losses
        gradients[batch.users] = torch.cat([part.flatten(1) for part in result.shared], dim=1)
        real = batch.real.unsqueeze(1).expand_as(touched)
        owners.append(batch.users.view(-1, 1, 1).expand_as(touched)[real])
        items.append(touched[real])
        rows.append(result.rows[real])
    empty = lengths.new_empty(0)
    merged = _collect(
        len(table),
        len(lengths),
        torch.cat([empty, *owners]),
        torch.cat([empty, *items]),
        torch.cat([table.new_empty(0, shape.dim), *rows]),
    )
    return CohortGradient(lengths, losses, *merged, gradients)


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
    margins = (states * difference).sum(-1)
    terms = (margins.sigmoid() + LOG_EPSILON).log()
    return -torch.where(real, terms, 0).sum(-1) / real.sum(-1)


def _batch_gradient(
    gathered: Tensor, parts: tuple[Tensor, ...], shape: Shape, batch: Batch, masks: Masks | None
) -> _BatchGradient:
    """One batch's gradients at the item rows ``gathered`` (b, 3, T, d): input, positive and negative."""
    index = sasrec.position_index(batch.lengths, gathered.shape[2], shape)
    inputs = sasrec.embed(gathered[:, 0], parts[0][index]).requires_grad_()
    difference = (gathered[:, 1] - gathered[:, 2]).requires_grad_()
    copies = [part.expand(len(gathered), *part.shape).requires_grad_() for part in parts[1:]]
    with torch.enable_grad():
        states = sasrec.encode(inputs, sasrec.as_weights((parts[0], *copies)), masks)
        losses = pair_losses(states, difference, batch.real)
        by_input, by_difference, *by_copies = torch.autograd.grad(losses.sum(), [inputs, difference, *copies])
    rows = torch.stack((by_input * math.sqrt(shape.dim), by_difference, -by_difference), dim=1)
    # A position's row enters as the item's does, but unscaled; at the padding the gradient is 0.
    by_position = by_input.new_zeros(len(gathered), *parts[0].shape)
    by_position.scatter_add_(1, index.unsqueeze(-1).expand_as(by_input), by_input)
    return _BatchGradient(losses.detach(), rows, [by_position, *by_copies])


def _collect(
    num_items: int, num_users: int, owner: Tensor, items: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Row splits, items and rows: the sums of the values (m, d) that belong to one (owner, item)."""
    pairs, inverse = torch.unique(owner * num_items + items, return_inverse=True)
    rows = values.new_zeros(len(pairs), values.shape[1]).index_add_(0, inverse, values)
    borders = torch.arange(num_users + 1, device=owner.device) * num_items
    return torch.searchsorted(pairs, borders), pairs % num_items, rows
