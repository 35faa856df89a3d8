"""Neural collaborative filtering (He et al. 2017, its MLP): a network on the user's and the item's vector scores items.

s(u, i) = h · φ₃(φ₂(φ₁([p_u, e_i]))) with φ_k(x) = ReLU(x W_k + b_k), a tower of the widths 2d → d → d/2 → d/4. Item
rows and the network are shared, p_u is private. The loss is BPR's (Eq. 1 of the AAAI 2023 paper), as for the other
recommenders here: the paper itself and Fed-NCF minimise the binary cross-entropy of single scores. h has no bias, which
the difference of two scores would cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

import draws
from draws import Stream
from models.recommenders import dropout
from models.recommenders.cohort import Cohort
from models.recommenders.contrastive import ContrastiveDraws, add_contrastive
from models.recommenders.recommender import CohortGradient, Recommender, Training, xavier_table
from models.rows import row_slots

LOG_OFFSET = 1e-8
"""Eq. 1 takes ln(σ(x) + 1e-8)."""

PAIRS = 64
"""Pairs of one user in a block, the last block padded: a product's rounding may depend on its shape."""

BLOCKS_AT_ONCE = {"cpu": 16, "cuda": 512}
"""The temporaries of 16 blocks stay in a core's cache; a GPU pays for every batch more."""


@dataclass(frozen=True)
class Network:
    """The shared parameters: ``matrices`` (in, out) and ``biases`` (out,) of the hidden layers, ``output`` (out,)."""

    matrices: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    output: Tensor


@dataclass(frozen=True)
class Pairs:
    """The training pairs of n users: user k's are ``splits[k]:splits[k+1]`` (n+1,) of two (N,) int64 tensors.

    ``keys`` (n,) int64: what names each user's dropout; ``None``: no dropout.
    """

    splits: Tensor
    positives: Tensor
    negatives: Tensor
    keys: Tensor | None = None
    dropout: float = 0.0


class Ncf(Recommender):
    """NCF with private user vectors."""

    private_vectors: ClassVar[bool] = True

    def initial(self, num_items: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draw the item table and the network: matrices Xavier-uniform, biases 0."""
        # A sequence of its own, so that the network's first weights do not depend on the number of items.
        generator = draws.generator(seed, Stream.INITIAL_MODEL, user=1)
        parts = [np.zeros(size) if size[0] == 1 else _xavier(generator, size) for size in _sizes(dim)]
        shared = np.concatenate([part.ravel() for part in parts])
        return xavier_table(num_items, dim, seed), torch.from_numpy(shared.astype(np.float32))

    def gradient(self, table: Tensor, shared: Tensor, training: Training) -> CohortGradient:
        """See ``Recommender.gradient``."""
        loss, device = training.loss, table.device
        keys = None
        if loss.dropout:
            keys = dropout.user_keys(training.seed, training.server_round, training.cohort.users).to(device)
        splits = torch.from_numpy(training.cohort.splits).to(device)
        pairs = Pairs(splits, training.positives.to(device), training.negatives.to(device), keys, loss.dropout)
        weight = loss.contrastive_weight
        return cohort_gradient(table, shared, training.vectors, pairs, training.contrastive(table), weight)

    def user_vectors(
        self, table: Tensor, shared: Tensor, cohort: Cohort, vectors: Tensor, after_valid: bool = False
    ) -> Tensor:
        """The private vectors themselves, whatever the users have seen."""
        return vectors

    def scores(self, table: Tensor, shared: Tensor, vectors: Tensor) -> Tensor:
        """See ``Recommender.scores``. Each user is scored by itself, so that nobody's scores depend on the others'."""
        network = unflatten(shared, table.shape[1])
        of_user, of_item = network.matrices[0].chunk(2)
        of_items = table @ of_item + network.biases[0]
        scores = []
        for vector in vectors:
            states = (of_items + vector @ of_user).relu()
            for matrix, bias in zip(network.matrices[1:], network.biases[1:], strict=True):
                states = torch.addmm(bias, states, matrix).relu()
            scores.append(states @ network.output)
        return torch.stack(scores) if scores else table.new_empty(0, len(table))


def cohort_gradient(
    table: Tensor,
    shared: Tensor,
    vectors: Tensor,
    pairs: Pairs,
    contrastive: ContrastiveDraws | None = None,
    contrastive_weight: float = 1.0,
) -> CohortGradient:
    """Each user's gradient of −mean ln(σ(s_pos − s_neg) + 1e-8) by item rows, network and its own vector.

    ``table`` (num_items, d), ``shared`` (p,), ``vectors`` (n, d). UNION's contrastive loss on the item rows is added
    where draws for it are given. Raises ``ValueError`` where ``shared`` is not of the network's size.
    """
    network = unflatten(shared, table.shape[1])
    counts = pairs.splits.diff()
    users = torch.arange(len(counts), device=table.device)
    owner = users.repeat_interleave(counts, output_size=len(pairs.positives))
    contributors, touched = [owner, owner], [pairs.positives, pairs.negatives]
    if contrastive is not None:
        contributors.append(contrastive.owner.repeat_interleave(contrastive.items.shape[1]))
        touched.append(contrastive.items.flatten())
    place = row_slots(torch.cat(contributors), torch.cat(touched), len(counts), len(table))
    both = torch.stack([pairs.positives, pairs.negatives])
    slots = place.slots[: 2 * len(owner)].view_as(both)

    losses = vectors.new_zeros(len(counts))
    rows = table.new_zeros(len(place.items), table.shape[1])
    by_shared = shared.new_zeros(len(counts), len(shared))
    by_vector = torch.zeros_like(vectors)
    blocks = (counts + PAIRS - 1) // PAIRS
    of_block = users.repeat_interleave(blocks)
    number = torch.arange(len(of_block), device=table.device) - (blocks.cumsum(0) - blocks)[of_block]
    keys = None
    if pairs.keys is not None and len(blocks):
        keys = dropout.spread(pairs.keys, int(blocks.max()))[of_block, number]
    places = (pairs.splits[of_block] + number * PAIRS).unsqueeze(1) + torch.arange(PAIRS, device=table.device)
    last = (pairs.splits[1:][of_block] - 1).unsqueeze(1)
    weights = (places <= last).to(table.dtype) / counts[of_block].unsqueeze(1)
    places = torch.minimum(places, last)
    at_once = BLOCKS_AT_ONCE.get(table.device.type, 16)
    for part in (slice(start, start + at_once) for start in range(0, len(of_block), at_once)):
        user, here = of_block[part], places[part]
        factors = torch.ones(())
        if keys is not None:
            factors = dropout.factors(keys[part], 3 * PAIRS, table.shape[1], pairs.dropout, table.dtype)
            factors = factors.view(len(user), 3, PAIRS, -1)
        items = table[both[:, here]].transpose(0, 1)
        loss, user_part, item_part, shared_part = _block_gradients(
            network, vectors[user], items, factors.to(table), weights[part]
        )
        # At the padding the gradient is 0, and its slots are the user's own.
        losses.index_add_(0, user, loss)
        by_vector.index_add_(0, user, user_part)
        by_shared.index_add_(0, user, shared_part)
        rows.index_add_(0, slots[:, here].transpose(0, 1).flatten(), item_part.flatten(0, 2))
    if contrastive is not None:
        slots_of_draws = place.slots[2 * len(owner) :].view_as(contrastive.items)
        losses += contrastive_weight * add_contrastive(table, contrastive, contrastive_weight, rows, slots_of_draws)
    return CohortGradient(counts, losses, place.row_splits, place.items, rows, by_shared, by_vector)


def unflatten(shared: Tensor, dim: int) -> Network:
    """Views into the flat vector (p,). Raises ``ValueError`` where its length is not the one that ``dim`` asks for."""
    sizes = _sizes(dim)
    lengths = [math.prod(size) for size in sizes]
    if len(shared) != sum(lengths):
        raise ValueError(f"The shared vector has {len(shared)} values; NCF with width {dim} has {sum(lengths)}.")
    parts = [part.view(size) for part, size in zip(torch.split_with_sizes(shared, lengths), sizes, strict=True)]
    return Network(tuple(parts[:-1:2]), tuple(bias[0] for bias in parts[1:-1:2]), parts[-1][:, 0])


def _sizes(dim: int) -> list[tuple[int, int]]:
    """The shapes in the flat vector's order: each layer's matrix and bias, then the output's matrix."""
    widths = [2 * dim, dim, max(2, dim // 2), max(2, dim // 4)]
    return [size for before, after in pairwise(widths) for size in ((before, after), (1, after))] + [(widths[-1], 1)]


def _xavier(generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    bound = math.sqrt(6 / sum(size))
    return generator.uniform(-bound, bound, size)


def _block_gradients(
    network: Network, users: Tensor, items: Tensor, factors: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses (b,) of b blocks and their gradients by user vector (b, d), item (b, 2, PAIRS, d), network (b, p).

    ``users`` (b, d); ``items`` (b, 2, PAIRS, d): positives, then negatives; ``factors`` (b, 3, PAIRS, d) or (): those
    of dropout for user, positive and negative; ``weights`` (b, PAIRS): a pair's share of its user's loss.
    """
    count, dim = users.shape
    of_user, of_items = (factors[:, :1], factors[:, 1:]) if factors.dim() else (factors, factors)
    user = (users.view(count, 1, 1, dim) * of_user).expand(count, 2, PAIRS, dim)
    states = [torch.cat([user, items * of_items], 3).flatten(1, 2)]
    copies = [matrix.expand(count, *matrix.shape) for matrix in network.matrices]
    for matrix, bias in zip(copies, network.biases, strict=True):
        states.append(torch.bmm(states[-1], matrix).add_(bias).relu_())
    output = network.output.view(-1, 1).expand(count, -1, 1)
    scores = torch.bmm(states[-1], output).view(count, 2, PAIRS)
    sigma = torch.exp(scores[:, 1] - scores[:, 0]).add_(1).reciprocal_()
    terms = -weights * torch.log(sigma + LOG_OFFSET)
    slope = -weights * sigma * (1 - sigma) / (sigma + LOG_OFFSET)
    by_score = torch.stack([slope, -slope], 1).view(count, -1, 1)

    # Sums as products with ones: a product of one shape has one order of additions, whatever stands beside it.
    ones = by_score.new_ones(count, 1, 2 * PAIRS)
    losses = torch.bmm(terms.unsqueeze(1), ones[:, :, :PAIRS].transpose(1, 2)).view(count)
    parts = [torch.bmm(states[-1].transpose(1, 2), by_score).flatten(1)]
    by_state = torch.bmm(by_score, output.transpose(1, 2))
    for state, before, matrix in zip(states[:0:-1], states[-2::-1], copies[::-1], strict=True):
        by_state = by_state.mul_(state > 0)
        parts = [torch.bmm(before.transpose(1, 2), by_state).flatten(1), torch.bmm(ones, by_state).flatten(1), *parts]
        by_state = torch.bmm(by_state, matrix.transpose(1, 2))
    by_user, by_item = by_state.view(count, 2, PAIRS, 2 * dim).chunk(2, 3)
    by_user = torch.bmm(ones, (by_user * of_user).reshape(count, 2 * PAIRS, dim)).view(count, dim)
    return losses, by_user, by_item * of_items, torch.cat(parts, 1)
