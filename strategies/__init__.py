"""Robust rules over updates, and the Flower strategy that runs them."""

from strategies.krum import Krum, MultiKrum
from strategies.norm_bound import NormBound
from strategies.rule import Mean, Rule
from strategies.union import Union

RULES: dict[str, type[Rule]] = {
    "mean": Mean,
    "krum": Krum,
    "multi-krum": MultiKrum,
    "norm-bound": NormBound,
    "union": Union,
}

CLIENT_SIDE = frozenset({"fl-wbc"})
"""Defenses that a chain may name although the server has no part in them: benign nodes run them as a mod."""
