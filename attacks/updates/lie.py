"""LIE, "a little is enough" (Baruch, Baruch and Goldberg 2019): a shift just small enough to pass for honest."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import norm
from torch import Tensor

from attacks.attack import Attack
from attacks.updates.honest_statistics import Coordinates, honest_moments, poisoned_updates
from attacks.updates.line_search import SEARCHED, AssumedRule, best_factor
from attacks.view import READINGS, AttackerView, Reading
from protocol.updates import Updates
from settings.options import option, require

LARGEST_Z = 100.0

PROGRAMS_Z = 0.1
"""In the first program of the authors of ClusterAttack."""


@dataclass(frozen=True)
class LieOptions:
    """Options of LIE; z is as large as the formula allows, as it is set, or searched for (see ``line_search``).

    ``reading``: in the authors' program z is 0.1 unless it is set, and σ divides by the number of updates less one.
    """

    reading: Reading = option("text", READINGS)
    z: float = option(0.0, "deviations from the mean; 0: the paper's formula, or the program's 0.1")
    assumed_rule: AssumedRule = option("none", SEARCHED)


class Lie(Attack):
    """A model attack: all users upload the same μ − z·σ."""

    prefix = "lie"
    Options = LieOptions

    def poison(self, view: AttackerView) -> Updates:
        """The same update for every selected user."""
        sample = view.sample_honest()
        program = self.options.reading == "program"
        mean, deviation = honest_moments(sample, correction=program)
        if self.options.assumed_rule != "none":
            z = best_factor(view, sample, self.options.assumed_rule, shifted_mean, LARGEST_Z)
        else:
            z = self.options.z or (
                PROGRAMS_Z if program else largest_z(view.clients_per_round, view.expected_malicious)
            )
        rows, shared = mean.rows - z * deviation.rows, mean.shared - z * deviation.shared
        return poisoned_updates(view.honest, Coordinates(mean.items, rows, shared))


def shifted_mean(honest: Tensor, count: int, z: float) -> Tensor:
    """(count, D): μ − z·σ of (n, D)."""
    return (honest.mean(0) - z * honest.std(0, correction=0)).expand(count, -1)


def supporters_needed(clients: int, malicious: int) -> int:
    """q = ⌊n/2 + 1⌋ − m: how many honest clients must lie farther out for the malicious ones to pass as a majority."""
    return clients // 2 + 1 - malicious


def largest_z(clients: int, malicious: int) -> float:
    """z = Φ⁻¹((n − m − q)/(n − m)) of n clients with m malicious ones among them (Algorithm 3, line 3).

    Raises ``OptionError`` where this is not finite: with a malicious majority, or hardly any honest client.
    """
    honest = clients - malicious
    inside = honest - supporters_needed(clients, malicious)
    usable = 0 < inside < honest
    expected = f"a number other than 0: the formula has no value for {malicious} malicious among {clients} clients"
    require(usable, "lie-z", 0.0, expected)
    z = float(norm.ppf(inside / honest))
    assert math.isfinite(z)
    return z
