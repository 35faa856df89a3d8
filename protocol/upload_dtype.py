"""The kind of number in which updates travel: as they were computed, or in half the bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from settings.run import UploadDtype as UploadDtype


@dataclass(frozen=True)
class Kind:
    """One kind of number: torch's, what stands for it on the wire, and NumPy's name of that."""

    values: torch.dtype
    wire: torch.dtype
    numpy: np.dtype[Any]


KINDS: dict[str, Kind] = {
    "float32": Kind(torch.float32, torch.float32, np.dtype(np.float32)),
    "float16": Kind(torch.float16, torch.float16, np.dtype(np.float16)),
    # NumPy has no bfloat16: its bits travel as a whole number.
    "bfloat16": Kind(torch.bfloat16, torch.int16, np.dtype(np.int16)),
}


def narrowed(values: Tensor, kind: UploadDtype) -> Tensor:
    """Float32 values of any shape as they travel, rounded to the nearest.

    A finite value beyond float16's largest, 65504, becomes that: infinite, it would cost its user the whole update.
    Below 6.1e-5 float16 has steps of 6e-8, and below 3e-8 nothing but 0; bfloat16 has float32's range and 8 bits.
    """
    if kind == "float32":
        return values
    largest = torch.finfo(KINDS[kind].values).max
    bounded = values.clamp(-largest, largest).where(values.isfinite(), values)
    return bounded.to(KINDS[kind].values).view(KINDS[kind].wire)


def widened(values: Tensor, kind: UploadDtype) -> Tensor:
    """What ``narrowed`` made, in float32 again; exact."""
    return values.view(KINDS[kind].values).to(torch.float32)
