"""Ragged histories to padded batches of bounded size, and of users of like length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_PADDING = {"cpu": 0.25, "cuda": 0.5}
"""Below this share of a batch is padding. A CPU pays for padding, a GPU for every batch more."""


@dataclass(frozen=True)
class Batch:
    """b users of like length, padded on the right to T.

    ``users`` (b,) int64: their positions in the cohort; ``lengths`` (b,) int64, at least 1; ``places`` (b, T)
    int64: where in the ragged arrays each step stands, 0 at the padding; ``real`` (b, T) bool.
    """

    users: Tensor
    lengths: Tensor
    places: Tensor
    real: Tensor


def batches(ends: Tensor, lengths: Tensor, max_batch_tokens: int) -> Iterator[Batch]:
    """Batches of all users with a length above 0, the longest first.

    User k's steps are the ``lengths[k]`` places before ``ends[k]`` (both (n,) int64). A batch has at most
    ``max_batch_tokens`` places with its padding, but at least one user.
    """
    order = lengths.argsort(descending=True, stable=True)
    device = lengths.device
    share = MAX_PADDING.get(device.type, 0.5)
    for start, end, width in _cuts(lengths[order].tolist(), max_batch_tokens, share):
        users = order[start:end]
        steps = torch.arange(width, device=device)
        real = steps < lengths[users].unsqueeze(1)
        places = torch.where(real, (ends - lengths)[users].unsqueeze(1) + steps, 0)
        yield Batch(users, lengths[users], places, real)


def _cuts(sizes: list[int], max_tokens: int, share: float) -> Iterator[tuple[int, int, int]]:
    """(start, end, width) of the batches of descending sizes."""
    start = 0
    while start < len(sizes) and sizes[start] > 0:
        width, tokens, end = sizes[start], 0, start
        while end < len(sizes) and sizes[end] > 0:
            padded = (end + 1 - start) * width
            if end > start and (padded > max_tokens or padded - tokens - sizes[end] >= share * padded):
                break
            tokens += sizes[end]
            end += 1
        yield start, end, width
        start = end
