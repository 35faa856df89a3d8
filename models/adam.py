"""Adam (Kingma and Ba 2015) as pure functions on tensors: one dense step, and the lazy form for private vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

IDLE_ROUNDS = 200
"""After this many rounds with a zero gradient the momentum is spent: 0.9^200 = 7e-10."""

VALUES_AT_ONCE = 1 << 17
"""Values whose temporaries stay in a core's cache: half a megabyte."""


@dataclass(frozen=True)
class Moments:
    """Adam's running means of the gradient and of its square, each of the parameter's shape."""

    first: Tensor
    second: Tensor

    @staticmethod
    def zeros_like(parameter: Tensor) -> Moments:
        """The moments before the first step."""
        return Moments(torch.zeros_like(parameter), torch.zeros_like(parameter))


def step(
    parameter: Tensor, gradient: Tensor, moments: Moments, count: int, rate: float, decay: float = 0.0
) -> tuple[Tensor, Moments]:
    """One Adam step; ``count`` is 1 in the first, ``decay`` times the parameter is added to the gradient.

    All tensors have one shape; none is changed in place.
    """
    stepped, first, second = (torch.empty_like(parameter) for _ in range(3))
    rows = max(1, VALUES_AT_ONCE * len(parameter) // max(parameter.numel(), 1))
    for part in (slice(start, start + rows) for start in range(0, len(parameter), rows)):
        values, slope = parameter[part], gradient[part]
        if decay:
            slope = slope + decay * values
        mean = torch.lerp(moments.first[part], slope, 1 - BETA1, out=first[part])
        square = torch.mul(moments.second[part], BETA2, out=second[part]).addcmul_(slope, slope, value=1 - BETA2)
        denominator = (square / (1 - BETA2**count)).sqrt_().add_(EPSILON)
        torch.addcdiv(values, mean, denominator, value=-rate / (1 - BETA1**count), out=stepped[part])
    return stepped, Moments(first, second)


def idle(parameter: Tensor, moments: Moments, last: Tensor, until: int, rate: float) -> tuple[Tensor, Moments]:
    """Bring rows up to round ``until`` as dense Adam would have, with a zero gradient in every round between.

    ``parameter`` and the moments are (n, d); ``last`` (n,) int64 is the round each row was last brought up
    to. A row that was never stepped has zero moments and stays where it is. Source: the reference steps
    its simulated user table with one dense Adam; this plays the same steps where the rows live.
    """
    gaps = (until - last).clamp(min=0)
    moved = parameter.clone()
    longest = min(int(gaps.max()), IDLE_ROUNDS) if len(gaps) else 0
    if longest:
        elapsed = torch.arange(1, longest + 1, device=parameter.device, dtype=torch.float64)
        rounds = last.unsqueeze(1) + elapsed
        played = elapsed <= gaps.unsqueeze(1)
        # The moments only decay, so that round t's step is m·a_t / (√v·b_t + ε) with scalars a, b of each row.
        first_scale = rate * BETA1**elapsed / (1 - BETA1**rounds) * played
        second_scale = (BETA2**elapsed / (1 - BETA2**rounds)).sqrt()
        root = moments.second.sqrt()
        for index in range(longest):
            scale = second_scale[:, index : index + 1].to(root.dtype)
            numerator = moments.first * first_scale[:, index : index + 1].to(root.dtype)
            moved -= numerator / (root * scale + EPSILON)
    decay = gaps.unsqueeze(1).to(torch.float64)
    first = moments.first * (BETA1**decay).to(parameter.dtype)
    second = moments.second * (BETA2**decay).to(parameter.dtype)
    return moved, Moments(first, second)
