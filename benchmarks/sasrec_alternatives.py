"""Other ways to SASRec's per-user gradients, for ``python -m benchmarks.sasrec --alternatives``.

Only the batch's own computation is exchanged: batches, dropout, gathering and scattering stay. Each way's
largest difference from the project's gradients is printed beside its time.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from unittest import mock

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from benchmarks.sasrec import DROPOUT, Round, implementation, measure
from models.recommenders import sasrec, sasrec_cohort
from models.recommenders.sasrec import Masks, Shape
from models.recommenders.sasrec_batches import Batch
from models.recommenders.sasrec_cohort import pair_losses

BatchGradient = tuple[Tensor, Tensor, list[Tensor]]


def compare(rounds: list[Round], device: str, max_batch_tokens: int) -> None:
    """Time every way with dropout, and without (where torch's fused attention is used)."""
    ways: dict[str, AbstractContextManager[object]] = {
        "a copy of stride 0 for every user (the project's)": nullcontext(),
        "vmap(grad)": mock.patch.object(sasrec_cohort, "_batch_gradient", _by_vmap),
        "one product for all, expanded in the backward pass": mock.patch.object(sasrec, "affine", _expanding),
        "one user at a time": mock.patch.object(sasrec_cohort, "_batch_gradient", _one_by_one),
    }
    print(
        f"{'per-user gradients by':52s} {'dropout':>7s} {'ms':>7s} {'fastest':>7s} {'CPU ms':>7s} {'difference':>10s}"
    )
    for probability in (DROPOUT, 0.0):
        method = implementation(max_batch_tokens, probability)
        expected = method(rounds[0])
        for name, exchanged in ways.items():
            with exchanged:
                found = method(rounds[0])
                wall, fastest, busy = (1e3 * seconds for seconds in measure(method, rounds, device))
            difference = max(
                float((found.shared - expected.shared).abs().max()), float((found.rows - expected.rows).abs().max())
            )
            print(f"{name:52s} {probability:7.1f} {wall:7.1f} {fastest:7.1f} {busy:7.1f} {difference:10.1e}")


def _by_vmap(
    gathered: Tensor, parts: tuple[Tensor, ...], shape: Shape, batch: Batch, masks: Masks | None
) -> BatchGradient:
    def loss(
        inputs: Tensor, difference: Tensor, shared: tuple[Tensor, ...], real: Tensor, factors: Masks | None
    ) -> Tensor:
        return pair_losses(sasrec.encode(inputs, sasrec.as_weights((parts[0], *shared)), factors), difference, real)

    index, inputs, difference = _entering(gathered, parts, shape, batch)
    each = vmap(grad_and_value(loss, argnums=(0, 1, 2)), in_dims=(0, 0, None, 0, None if masks is None else 0))
    (by_input, by_difference, by_part), losses = each(inputs, difference, parts[1:], batch.real, masks)
    return losses, *_leaving(index, by_input, by_difference, list(by_part), shape)


def _one_by_one(
    gathered: Tensor, parts: tuple[Tensor, ...], shape: Shape, batch: Batch, masks: Masks | None
) -> BatchGradient:
    index, inputs, difference = _entering(gathered, parts, shape, batch)
    by_input, by_difference = torch.zeros_like(inputs), torch.zeros_like(inputs)
    losses, by_part = [], []
    shared = [part.clone().requires_grad_() for part in parts[1:]]
    for user, length in enumerate(batch.lengths.tolist()):
        own = inputs[user, :length].clone().requires_grad_()
        pairs = difference[user, :length].clone().requires_grad_()
        factors = None
        if masks is not None:
            factors = Masks(masks.tokens[user, :, :length], masks.attention[user, :, :length, :length])
        states = sasrec.encode(own, sasrec.as_weights((parts[0], *shared)), factors)
        loss = pair_losses(states, pairs, batch.real[user, :length])
        by_input[user, :length], by_difference[user, :length], *of_parts = torch.autograd.grad(
            loss, [own, pairs, *shared]
        )
        losses.append(loss.detach())
        by_part.append(of_parts)
    stacked = [torch.stack(of_users) for of_users in zip(*by_part, strict=True)]
    return torch.stack(losses), *_leaving(index, by_input, by_difference, stacked, shape)


class _Expanding(torch.autograd.Function):
    """states · matrix + bias with the users' identical matrices taken once, as one large product.

    Its backward pass gives every user's own gradient, as Opacus does for linear layers.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, states: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(states, matrix)
        return torch.addmm(bias[0, 0], states.flatten(0, 1), matrix[0]).view(*states.shape[:2], -1)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, matrix = ctx.saved_tensors  # type: ignore[attr-defined]
        by_states = (gradient.flatten(0, 1) @ matrix[0].T).view_as(states)
        return by_states, torch.bmm(states.transpose(1, 2), gradient), gradient.sum(1, keepdim=True)


def _expanding(states: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    result: Tensor = _Expanding.apply(states, matrix, bias)  # type: ignore[no-untyped-call]
    return result


def _entering(gathered: Tensor, parts: tuple[Tensor, ...], shape: Shape, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    index = sasrec.position_index(batch.lengths, gathered.shape[2], shape)
    return index, sasrec.embed(gathered[0], parts[0][index]), gathered[1] - gathered[2]


def _leaving(
    index: Tensor, by_input: Tensor, by_difference: Tensor, by_part: list[Tensor], shape: Shape
) -> tuple[Tensor, list[Tensor]]:
    by_position = by_input.new_zeros(len(by_input), shape.max_length, shape.dim)
    by_position.scatter_add_(1, index.unsqueeze(-1).expand_as(by_input), by_input)
    by_row = torch.stack((by_input * math.sqrt(shape.dim), by_difference, -by_difference))
    return by_row, [by_position, *by_part]
