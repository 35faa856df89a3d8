"""SASRec (Kang and McAuley 2018) as a pure function of item rows and one flat vector of shared parameters.

The block is that of the authors' program: queries are the normalised input, keys and values the input as it is,
there is no output projection, and both residuals add the *normalised* input. One head. Item vectors are
scaled by √d where they enter and used unscaled where they score. Positions are counted from the end, so
that the newest item always stands at the same place, as the authors' left padding has it.

Every function takes any leading batch dimensions. Sequences are padded on the *right*: attention is
causal, so no real position ever sees padding, and what is computed at the padding is left out by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

NORM_EPSILON = 1e-8
"""What the authors' layer normalisation adds to the variance."""


@dataclass(frozen=True)
class Shape:
    """What the size of the shared vector depends on: width d, longest history, number of blocks."""

    dim: int = 64
    max_length: int = 200
    blocks: int = 2


class BlockWeights(NamedTuple):
    """One self-attention block: matrices (…, d, k) that multiply from the right, the rest (…, 1, k)."""

    attention_gain: Tensor
    attention_shift: Tensor
    query: Tensor
    query_bias: Tensor
    key_value: Tensor
    key_value_bias: Tensor
    forward_gain: Tensor
    forward_shift: Tensor
    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    outer_bias: Tensor


class Weights(NamedTuple):
    """The shared parameters: positions (…, max_length, d), the blocks, the last normalisation (…, 1, d)."""

    positions: Tensor
    blocks: tuple[BlockWeights, ...]
    gain: Tensor
    shift: Tensor


class Masks(NamedTuple):
    """Dropout's factors, 0 or 1/(1 − probability), for T positions.

    ``tokens`` (…, 1 + 2·blocks, T, d): the embedding, then each block's two feed-forward layers;
    ``attention`` (…, blocks, T, T): the attention weights.
    """

    tokens: Tensor
    attention: Tensor


def shared_size(shape: Shape) -> int:
    """Length p of the flat vector."""
    return sum(math.prod(size) for size in _sizes(shape))


def initial_shared(shape: Shape, generator: np.random.Generator) -> Tensor:
    """(p,) float32: matrices and positions Xavier-uniform, biases and shifts 0, gains 1."""
    parts = []
    for name, (rows, columns) in zip(_names(shape), _sizes(shape), strict=True):
        if name.endswith("gain"):
            parts.append(np.ones(columns))
        elif name.endswith(("bias", "shift")):
            parts.append(np.zeros(columns))
        else:
            # Keys and values are two square matrices side by side, each with a bound of its own.
            fan_out = shape.dim if name == "key_value" else columns
            bound = math.sqrt(6 / (rows + fan_out))
            parts.append(generator.uniform(-bound, bound, rows * columns))
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))


def unflatten(shared: Tensor, shape: Shape) -> Weights:
    """Views into a flat vector (…, p). Raises ``ValueError`` where its length is not that of the shape."""
    return as_weights(split(shared, shape))


def split(shared: Tensor, shape: Shape) -> tuple[Tensor, ...]:
    """The parameters of (…, p) one by one, in the flat vector's order, each (…, rows, columns)."""
    sizes = _sizes(shape)
    lengths = [math.prod(size) for size in sizes]
    if shared.shape[-1] != sum(lengths):
        raise ValueError(
            f"The shared vector has {shared.shape[-1]} values; SASRec with width {shape.dim}, maximum length "
            f"{shape.max_length} and {shape.blocks} blocks has {sum(lengths)}."
        )
    pieces = torch.split_with_sizes(shared, lengths, dim=-1)
    return tuple(part.view(*part.shape[:-1], *size) for part, size in zip(pieces, sizes, strict=True))


def as_weights(parts: tuple[Tensor, ...]) -> Weights:
    """Give the parameters of ``split`` their names."""
    width = len(BlockWeights._fields)
    blocks = tuple(BlockWeights(*parts[start : start + width]) for start in range(1, len(parts) - 2, width))
    return Weights(parts[0], blocks, parts[-2], parts[-1])


def position_index(lengths: Tensor, width: int, shape: Shape) -> Tensor:
    """(…,) lengths to (…, width) rows of the position table; the last item has the table's last row."""
    steps = torch.arange(width, device=lengths.device)
    return (shape.max_length - lengths.unsqueeze(-1) + steps).clamp(max=shape.max_length - 1)


def embed(rows: Tensor, positions: Tensor) -> Tensor:
    """What enters the first block, before dropout: item rows (…, T, d) scaled by √d, plus the positions' rows."""
    return torch.add(positions, rows, alpha=math.sqrt(rows.shape[-1]))


def encode(inputs: Tensor, weights: Weights, masks: Masks | None = None) -> Tensor:
    """Hidden states (…, T, d) of embedded histories (…, T, d); ``masks`` only in training.

    Weights may have the inputs' leading dimensions (a copy for every user) or none (one for all).
    """
    states = inputs if masks is None else inputs * masks.tokens[..., 0, :, :]
    for index, block in enumerate(weights.blocks):
        queries = normalise(states, block.attention_gain, block.attention_shift)
        keys, values = affine(states, block.key_value, block.key_value_bias).chunk(2, dim=-1)
        attention = None if masks is None else masks.attention[..., index, :, :]
        states = queries + attend(affine(queries, block.query, block.query_bias), keys, values, attention)
        normal = normalise(states, block.forward_gain, block.forward_shift)
        inner = affine(normal, block.inner, block.inner_bias).relu()
        if masks is not None:
            inner = inner * masks.tokens[..., 1 + 2 * index, :, :]
        outer = affine(inner, block.outer, block.outer_bias)
        states = (
            normal + outer if masks is None else torch.addcmul(normal, outer, masks.tokens[..., 2 + 2 * index, :, :])
        )
    return normalise(states, weights.gain, weights.shift)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Causal attention of one head, all (…, T, d); ``mask`` (…, T, T) are dropout's factors on the weights.

    Without a mask it is torch's fused kernel. That one drops with random numbers of its own, which would
    depend on the batch, so that with a mask the weights are written out.
    """
    if mask is None:
        # As one head of four dimensions: of fewer torch takes the written-out way, which takes 2.7 times as long.
        q, k, v = (part.unsqueeze(-3) for part in (queries, keys, values))
        fused: Tensor = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return fused.squeeze(-3)
    width = queries.shape[-2]
    future = torch.ones(width, width, dtype=torch.bool, device=queries.device).triu_(1)
    logits = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    shares: Tensor = Softmax.apply(logits.masked_fill(future, -torch.inf))  # type: ignore[no-untyped-call]
    return (shares * mask) @ values


class Softmax(torch.autograd.Function):
    """Softmax over the last dimension.

    Of torch's own, the gradient's last bit depends on whether there is one thread or more, so that nodes with
    different numbers of threads would give different runs.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor) -> Tensor:
        """(…, T) to shares that add up to 1."""
        return logits.softmax(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the shares s: the gradient is s · (g − Σ s·g)."""
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """By the logits."""
        (shares,) = ctx.saved_tensors
        weighted = shares * gradient
        return torch.addcmul(weighted, shares, weighted.sum(-1, keepdim=True), value=-1)


def normalise(states: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Layer normalisation over the last dimension."""
    return torch.addcmul(shift, functional.layer_norm(states, states.shape[-1:], eps=NORM_EPSILON), gain)


def affine(states: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """states · matrix + bias."""
    if matrix.dim() == states.dim() == 3:
        return torch.baddbmm(bias, states, matrix)
    return states @ matrix + bias


def _names(shape: Shape) -> Iterator[str]:
    yield "positions"
    for _ in range(shape.blocks):
        yield from BlockWeights._fields
    yield from ("gain", "shift")


def _sizes(shape: Shape) -> list[tuple[int, int]]:
    """(rows, columns) of every parameter, in the flat vector's order."""
    d = shape.dim
    columns = {"key_value": 2 * d, "key_value_bias": 2 * d}
    rows = {"positions": shape.max_length, "query": d, "key_value": d, "inner": d, "outer": d}
    return [(rows.get(name, 1), columns.get(name, d)) for name in _names(shape)]
