"""The options of FL-WBC (Sun et al. 2021), a defense in which the server has no part: benign nodes add noise."""

from __future__ import annotations

from dataclasses import dataclass

from settings.options import require
from strategies.names import names_of

PREFIX = "fl-wbc"
"""Its name in a chain, and what stands in front of its options."""


@dataclass(frozen=True)
class FlWbcOptions:
    """The two parameters of FL-WBC.

    ``noise``: the scale b of the Laplace distribution, whose standard deviation is √2·b, in units of the
    gradient. ``threshold``: a coordinate gets noise where its estimated curvature is at most so many times
    the mean of the user's coordinates.
    """

    noise: float = 1e-4
    threshold: float = 0.1

    def __post_init__(self) -> None:
        require(self.noise >= 0, "fl-wbc-noise", self.noise, "a number from 0")
        require(self.threshold >= 0, "fl-wbc-threshold", self.threshold, "a number from 0")


def is_chosen(defense: str) -> bool:
    """Whether a chain of defenses names FL-WBC."""
    return PREFIX in names_of(defense)
