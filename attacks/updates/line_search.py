"""How far an attack can go: a line search of its factor against a rule that the attacker assumes, its own copy of it.

What is assumed: that the server runs this rule with the true number of attackers, and that other users' updates look
like those of the attacker's own users. The copies are dense, and see a random choice of the coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from attacks.view import AttackerView
from protocol.updates import Updates

AssumedRule = Literal[
    "none",
    "mean",
    "median",
    "trimmed-mean",
    "krum",
    "multi-krum",
    "geometric-median",
    "nnm+median",
    "nnm+trimmed-mean",
    "nnm+krum",
    "nnm+multi-krum",
    "nnm+geometric-median",
]

_NONE, *_SOME, _LAST = get_args(AssumedRule)

SEARCHED = f"none; or search the factor, up to 100, against {', '.join(_SOME)} or {_LAST}"
"""What the option ``assumed_rule`` of an attack means."""

MOST_COORDINATES = 20_000
FACTORS = 16
"""Factors that are tried at first, each a fixed multiple of the one before, and then once more around the best."""
SMALLEST_SHARE = 1e-3
"""The smallest factor that is tried, in units of the largest."""


def best_factor(
    view: AttackerView,
    sample: Updates,
    rule: AssumedRule,
    poisoned: Callable[[Tensor, int, float], Tensor],
    largest: float,
) -> float:
    """The factor up to ``largest`` at which the rule's result is farthest from the honest mean.

    ``sample`` (n users): honest updates; ``poisoned``: from these as a matrix (n, D), a number of attackers m and a
    factor to what they send (m, D).
    """
    honest = sampled_matrix(sample, view.generator)
    share = view.expected_malicious / view.clients_per_round
    malicious = max(1, math.ceil(len(honest) * share / max(1 - share, share)))
    mean, combine = honest.mean(0), ASSUMED_RULES[rule]

    def damage(factor: float) -> float:
        sent = poisoned(honest, malicious, factor)
        return float((combine(torch.cat([honest, sent]), malicious) - mean).norm())

    factors = largest * np.geomspace(SMALLEST_SHARE, 1, FACTORS)
    best = max(factors.tolist(), key=damage)
    step = float(factors[1] / factors[0])
    around = np.geomspace(best / step, min(best * step, largest), FACTORS)
    found: float = max([best, *around.tolist()], key=damage)
    return found


def sampled_matrix(updates: Updates, generator: np.random.Generator) -> Tensor:
    """(n, D): the updates on ``MOST_COORDINATES`` of the coordinates that somebody touched, zeros if not sent."""
    items, place = torch.unique(updates.items, return_inverse=True)
    rows = updates.rows.new_zeros(len(updates), len(items), updates.dim)
    rows[updates.row_owner, place] = updates.rows
    matrix = torch.cat([rows.flatten(1), updates.shared], 1)
    if matrix.shape[1] <= MOST_COORDINATES:
        return matrix
    chosen = generator.choice(matrix.shape[1], MOST_COORDINATES, replace=False)
    return matrix[:, torch.from_numpy(np.sort(chosen)).to(matrix.device)]


def _trimmed_mean(matrix: Tensor, f: int) -> Tensor:
    cut = min(f, (len(matrix) - 1) // 2)
    return matrix.sort(dim=0).values[cut : len(matrix) - cut].mean(0)


def _median(matrix: Tensor, f: int) -> Tensor:
    return _trimmed_mean(matrix, len(matrix))


def _krum_order(matrix: Tensor, f: int) -> Tensor:
    """(n,) the updates in ascending order of their Krum score."""
    distances = torch.cdist(matrix, matrix).square().fill_diagonal_(torch.inf)
    nearest = min(max(len(matrix) - f - 2, 1), len(matrix) - 1)
    return distances.topk(nearest, dim=1, largest=False).values.sum(1).argsort(stable=True)


def _krum(matrix: Tensor, f: int) -> Tensor:
    return matrix[_krum_order(matrix, f)[0]]


def _multi_krum(matrix: Tensor, f: int) -> Tensor:
    return matrix[_krum_order(matrix, f)[: max(len(matrix) - f, 1)]].mean(0)


def _geometric_median(matrix: Tensor, f: int) -> Tensor:
    point = torch.zeros_like(matrix[0])
    for _ in range(3):
        weights = 1 / (matrix - point).norm(dim=1).clamp(min=1e-6)
        point = weights @ matrix / weights.sum()
    return point


def _mixed(matrix: Tensor, f: int) -> Tensor:
    """(n, D): each update's mean with its nearest n − f − 1 others."""
    nearest = max(len(matrix) - f, 1)
    chosen = torch.cdist(matrix, matrix).topk(nearest, dim=1, largest=False).indices
    weights = matrix.new_zeros(len(matrix), len(matrix)).scatter_(1, chosen, 1 / nearest)
    return weights @ matrix


Combination = Callable[[Tensor, int], Tensor]


def _behind_mixing(combine: Combination) -> Combination:
    return lambda matrix, f: combine(_mixed(matrix, f), f)


_ROBUST: dict[str, Combination] = {
    "median": _median,
    "trimmed-mean": _trimmed_mean,
    "krum": _krum,
    "multi-krum": _multi_krum,
    "geometric-median": _geometric_median,
}

ASSUMED_RULES: dict[str, Combination] = {
    "mean": lambda matrix, f: matrix.mean(0),
    **_ROBUST,
    **{f"nnm+{name}": _behind_mixing(combine) for name, combine in _ROBUST.items()},
}
"""From updates (n, D), f of them assumed to be malicious, to one (D,)."""
