"""Dropout decisions as a function of (key, place): the same whatever else stands in the batch, on every device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import draws
from draws import Stream

_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)
"""Multipliers of Wellons' 32-bit mixing function ("lowbias32", 2018), as signed numbers."""


def user_keys(seed: int, server_round: int, users: NDArray[np.int64]) -> Tensor:
    """(n,) int64: what names each user's dropout in one round; depends on (seed, round, user) alone."""
    words = draws.raw(seed, Stream.DROPOUT, server_round, users.tolist(), [1] * len(users))
    return torch.from_numpy(words.view(np.int64))


def factors(keys: Tensor, rows: int, columns: int, probability: float, dtype: torch.dtype) -> Tensor:
    """Dropout's factors (…, rows, columns) for keys (…,) int64: 0 with the probability (to 1/65536), else 1/(1 − it).

    The decision at (key, row, column) does not depend on how many rows and columns are asked for (each
    below 65536).
    """
    kept = _hash(keys, rows, (columns + 1) // 2).view(torch.int16)[..., :columns]
    threshold = round(probability * 65536)
    return (kept >= threshold - 32768).to(dtype).mul_(65536 / (65536 - threshold))


def spread(keys: Tensor, count: int) -> Tensor:
    """(…,) int64 keys to (…, count) of them, all as good as independent (the mixing step of SplitMix64)."""
    mixed = keys.unsqueeze(-1) + torch.arange(1, count + 1, device=keys.device) * _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shifted(mixed, 31)


def _hash(keys: Tensor, rows: int, columns: int) -> Tensor:
    """(…, rows, columns) int32 words; half a key enters before the first multiplication, half before the second."""
    row = torch.arange(rows, dtype=torch.int32, device=keys.device).unsqueeze(1)
    counter = (row << 16) | torch.arange(columns, dtype=torch.int32, device=keys.device)
    halves = keys.unsqueeze(-1).contiguous().view(torch.int32)[..., None, None]
    words = counter ^ halves[..., 0, :, :]
    scratch = torch.empty_like(words)
    _fold(words, 16, scratch).mul_(_FIRST)
    words.add_(halves[..., 1, :, :])
    _fold(words, 15, scratch).mul_(_SECOND)
    return _fold(words, 16, scratch)


def _fold(words: Tensor, bits: int, scratch: Tensor) -> Tensor:
    """words ^= words >> bits in place, the shift filling with zeros."""
    torch.bitwise_right_shift(words, bits, out=scratch)
    return words.bitwise_xor_(scratch.bitwise_and_((1 << (32 - bits)) - 1))


def _shifted(words: Tensor, bits: int) -> Tensor:
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
