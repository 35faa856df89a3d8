"""Ragged histories to padded batches of bounded size, and of users of like length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

WIDTHS_AN_OCTAVE = {"cpu": 2, "cuda": 1}
"""How many widths lie between T and T/2. A CPU pays for padding, a GPU for every batch more."""


@dataclass(frozen=True)
class Batch:
    """b users of like length, padded on the right to T.

    ``users`` (b,) int64: their positions in the cohort; ``lengths`` (b,) int64, at least 1; ``places`` (b, T)
    int64: where in the ragged arrays each step stands, the user's last place repeated at the padding;
    ``real`` (b, T) bool, more than half of each row true.
    """

    users: Tensor
    lengths: Tensor
    places: Tensor
    real: Tensor


def batches(ends: Tensor, lengths: Tensor, max_length: int, max_batch_tokens: int) -> Iterator[Batch]:
    """Batches of all users with a length above 0, the longest first.

    User k's steps are the ``lengths[k]`` places before ``ends[k]`` (both (n,) int64, lengths up to
    ``max_length``). A batch has at most ``max_batch_tokens`` places with its padding, but at least one user. T
    depends on a user's own length alone, because a product's rounding may depend on its shape.
    """
    device = lengths.device
    ladder = torch.tensor(widths(max_length, WIDTHS_AN_OCTAVE.get(device.type, 1)), device=device)
    rungs = torch.searchsorted(ladder, lengths)
    counts = torch.bincount(rungs, minlength=len(ladder)).tolist()
    order = rungs.argsort(descending=True, stable=True)
    start = 0
    for width, count in zip(reversed(ladder.tolist()), reversed(counts), strict=True):
        if width == 0:
            return
        if count == 0:
            continue
        steps = torch.arange(width, device=device)
        for users in torch.split(order[start : start + count], max(1, max_batch_tokens // width)):
            own = lengths[users].unsqueeze(1)
            places = ends[users].unsqueeze(1) - own + torch.minimum(steps, own - 1)
            yield Batch(users, lengths[users], places, steps < own)
        start += count


def widths(max_length: int, an_octave: int) -> list[int]:
    """0, then ascending widths up to ``max_length``, each less than twice the shortest length that it takes."""
    octaves = max_length.bit_length() + 1
    return sorted({0} | {math.ceil(max_length * 2 ** (-step / an_octave)) for step in range(octaves * an_octave)})
