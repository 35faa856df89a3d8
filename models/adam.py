"""Adam (Kingma and Ba 2015) as pure functions on tensors: one dense step, and the lazy form for private vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from models.kernels import adam as kernels
from models.kernels.adam import BETA1, BETA2, EPSILON, IDLE_ROUNDS, SMALL_ROOT
from models.kernels.bounds import has_kernels, require_items

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
    stepped, first, second = (
        torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device) for _ in range(3)
    )
    for other in (gradient, moments.first, moments.second):
        if other.shape != parameter.shape:
            raise ValueError(f"A tensor of shape {tuple(other.shape)} cannot step one of {tuple(parameter.shape)}.")
    if has_kernels(parameter):
        before = [_flat(part) for part in (parameter, gradient.to(parameter.dtype), moments.first, moments.second)]
        theta, by_theta, m, v = before
        kernels.step(theta, by_theta, m, v, count, rate, decay, _flat(stepped), _flat(first), _flat(second))
        return stepped, Moments(first, second)
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


def preview(
    parameter: Tensor, gradients: Tensor, moments: Moments, rows: Tensor, count: int, rate: float, decay: float = 0.0
) -> Tensor:
    """What ``step`` would make of the ``rows`` (r,) of a (n, d) parameter with ``gradients`` (r, d) of their own.

    A row may stand in ``rows`` several times. Raises ``IndexError`` for a row that is not there.
    """
    if not has_kernels(parameter):
        own = Moments(moments.first.index_select(0, rows), moments.second.index_select(0, rows))
        return step(parameter.index_select(0, rows), gradients, own, count, rate, decay)[0]
    where, stepped = rows.contiguous().numpy(), torch.empty(gradients.shape, dtype=parameter.dtype)
    require_items(where, len(parameter))
    before = [part.contiguous().numpy() for part in (parameter, gradients, moments.first, moments.second)]
    theta, by_theta, m, v = before
    kernels.preview(theta, by_theta, m, v, where, count, rate, decay, stepped.numpy())
    return stepped


def _flat(values: Tensor) -> NDArray[Any]:
    flat: NDArray[Any] = values.detach().contiguous().numpy().reshape(-1)
    return flat


def idle(parameter: Tensor, moments: Moments, last: Tensor, until: int, rate: float) -> tuple[Tensor, Moments]:
    """Bring rows up to round ``until`` as dense Adam would have, with a zero gradient in every round between.

    ``parameter`` and the moments are (n, d); ``last`` (n,) int64 is the round each row was last brought up
    to. A row that was never stepped has zero moments and stays where it is. Source: the reference steps
    its simulated user table with one dense Adam; this sums the same steps where the rows live. Each value
    depends on its own row alone, to the bit.
    """
    if has_kernels(parameter):
        before = [part.contiguous().numpy() for part in (parameter, moments.first, moments.second, last)]
        after = [torch.empty(parameter.shape, dtype=parameter.dtype) for _ in range(3)]
        values, first_before, second_before, since = before
        kernels.idle(values, first_before, second_before, since, until, rate, *(part.numpy() for part in after))
        return after[0], Moments(after[1], after[2])
    gaps = (until - last).clamp(min=0)
    moved = parameter.clone()
    if bool((gaps > 0).any()):
        moved -= moments.first * _steps_per_momentum(moments.second.sqrt(), gaps, last, rate)
    decay = gaps.unsqueeze(1).to(torch.float64)
    first = moments.first * (BETA1**decay).to(parameter.dtype)
    second = moments.second * (BETA2**decay).to(parameter.dtype)
    return moved, Moments(first, second)


def _steps_per_momentum(root: Tensor, gaps: Tensor, last: Tensor, rate: float) -> Tensor:
    """(n, d): Σ_t a_t / (b_t·root + ε) over each row's idle rounds, for ``root`` = √v (n, d).

    The moments only decay, so that round t's step is m·a_t / (√v·b_t + ε) with scalars a, b of each row. In powers
    of ε/√v three terms are exact to 1e-8; the few values whose √v is too small for that are summed round by round.
    """
    # As many for every row, played or not, so that a sum's order does not depend on who else is there.
    elapsed = torch.arange(1, IDLE_ROUNDS + 1, device=root.device, dtype=torch.float64)
    rounds = last.unsqueeze(1) + elapsed
    played = elapsed <= gaps.unsqueeze(1)
    a = rate * BETA1**elapsed / (1 - BETA1**rounds) * played
    b = (BETA2**elapsed / (1 - BETA2**rounds)).sqrt()
    terms = [(a / b**power).sum(1, keepdim=True).to(root.dtype) for power in (1, 2, 3)]
    epsilons = EPSILON / root
    total = (terms[0] - epsilons * (terms[1] - epsilons * terms[2])) / root
    total.masked_fill_(root == 0, 0)
    a, b = a.to(root.dtype), b.to(root.dtype)
    rows, columns = ((root > 0) & (root < SMALL_ROOT)).nonzero(as_tuple=True)
    few = VALUES_AT_ONCE // IDLE_ROUNDS
    for row, column in zip(torch.split(rows, few), torch.split(columns, few), strict=True):
        small = root[row, column].unsqueeze(1)
        total[row, column] = (a[row] / (small * b[row] + EPSILON)).sum(1)
    return total
