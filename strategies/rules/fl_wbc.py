"""The options of FL-WBC (Sun et al. 2021), a defense in which the server has no part: benign nodes add noise."""

from __future__ import annotations

from dataclasses import dataclass

from settings.options import option
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

    noise: float = option(1e-4, "scale of the Laplace noise that benign clients add", at_least=0)
    threshold: float = option(0.1, "where the estimated curvature is at most so many times its mean", at_least=0)


def is_chosen(defense: str) -> bool:
    """Whether a chain of defenses names FL-WBC."""
    return PREFIX in names_of(defense)
