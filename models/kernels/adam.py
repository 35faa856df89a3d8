"""Adam (Kingma and Ba 2015): a dense step in one pass, and idle rounds in closed form."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled

Ints = NDArray[np.int64]
Array = NDArray[np.floating]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

IDLE_ROUNDS = 200
"""After this many rounds with a zero gradient the momentum is spent: 0.9^200 = 7e-10."""

SMALL_ROOT = 5e-6
"""Below this √v the ε of Adam's denominator, 1e-8, is no small correction."""


@compiled
def step(
    parameter: Array,
    gradient: Array,
    first: Array,
    second: Array,
    count: int,
    rate: float,
    decay: float,
    stepped: Array,
    new_first: Array,
    new_second: Array,
) -> None:
    """Step ``count``, the first being 1, of the flat (n,) ``parameter`` into the last three arrays.

    g = gradient + decay·θ; m = β₁m + (1−β₁)g; v = β₂v + (1−β₂)g²; θ − rate·(m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε).
    """
    kind = parameter.dtype.type
    fresh, kept, fresh_square, epsilon = kind(1 - BETA1), kind(BETA2), kind(1 - BETA2), kind(EPSILON)
    scale, pace, shrink = kind(1 - BETA2**count), kind(rate / (1 - BETA1**count)), kind(decay)
    for i in range(len(parameter)):
        slope = gradient[i] + shrink * parameter[i]
        mean = first[i] + fresh * (slope - first[i])
        square = second[i] * kept + fresh_square * slope * slope
        new_first[i] = mean
        new_second[i] = square
        stepped[i] = parameter[i] - pace * (mean / (np.sqrt(square / scale) + epsilon))


@compiled
def preview(
    parameter: Array,
    gradients: Array,
    first: Array,
    second: Array,
    rows: Ints,
    count: int,
    rate: float,
    decay: float,
    stepped: Array,
) -> None:
    """What ``step`` would make of the rows ``rows`` (r,) of ``parameter`` (n, d), each by its own gradient (r, d)."""
    kind = parameter.dtype.type
    fresh, kept, fresh_square, epsilon = kind(1 - BETA1), kind(BETA2), kind(1 - BETA2), kind(EPSILON)
    scale, pace, shrink = kind(1 - BETA2**count), kind(rate / (1 - BETA1**count)), kind(decay)
    for r in range(len(rows)):
        theta, m, v = parameter[rows[r]], first[rows[r]], second[rows[r]]
        gradient, into = gradients[r], stepped[r]
        for c in range(len(theta)):
            slope = gradient[c] + shrink * theta[c]
            mean = m[c] + fresh * (slope - m[c])
            square = v[c] * kept + fresh_square * slope * slope
            into[c] = theta[c] - pace * (mean / (np.sqrt(square / scale) + epsilon))


@compiled
def idle(
    parameter: Array,
    first: Array,
    second: Array,
    last: Ints,
    until: int,
    rate: float,
    moved: Array,
    new_first: Array,
    new_second: Array,
) -> None:
    """Rows (n, d), row k as of round ``last[k]``, as they are after round ``until`` with zero gradients between.

    Round t's step is m·a_t / (√v·b_t + ε), since the moments only decay, with a_t = rate·β₁ᵉ/(1−β₁ᵗ) and
    b_t = √(β₂ᵉ/(1−β₂ᵗ)) after e idle rounds. In powers of ε/√v three terms of the sum over t are exact to
    1e-8; of the few values whose √v is too small for that the rounds are summed one by one.
    """
    kind = parameter.dtype.type
    a, b = np.empty(IDLE_ROUNDS), np.empty(IDLE_ROUNDS)
    for k in range(len(parameter)):
        gap = max(until - last[k], 0)
        played = min(gap, IDLE_ROUNDS)
        one, two, three = 0.0, 0.0, 0.0
        for e in range(1, played + 1):
            a[e - 1] = rate * BETA1**e / (1 - BETA1 ** (last[k] + e))
            b[e - 1] = math.sqrt(BETA2**e / (1 - BETA2 ** (last[k] + e)))
            one += a[e - 1] / b[e - 1]
            two += a[e - 1] / b[e - 1] ** 2
            three += a[e - 1] / b[e - 1] ** 3
        momentum_left, square_left = kind(BETA1 ** np.float64(gap)), kind(BETA2 ** np.float64(gap))
        for c in range(parameter.shape[1]):
            root = math.sqrt(second[k, c])
            steps = 0.0
            if root >= SMALL_ROOT:
                epsilons = EPSILON / root
                steps = (one - epsilons * (two - epsilons * three)) / root
            elif root > 0:
                for e in range(played):
                    steps += a[e] / (root * b[e] + EPSILON)
            moved[k, c] = parameter[k, c] - first[k, c] * kind(steps)
            new_first[k, c] = first[k, c] * momentum_left
            new_second[k, c] = second[k, c] * square_left
