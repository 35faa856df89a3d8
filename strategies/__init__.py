"""Robust rules over updates, and the Flower strategy that runs them."""

from strategies.accuracy_check import AccuracyCheck
from strategies.bulyan import Bulyan
from strategies.distance_range import DistanceRange
from strategies.krum import Krum, MultiKrum
from strategies.median import Median
from strategies.norm_bound import NormBound
from strategies.per_item import PerItemKrum, PerItemMedian, PerItemTrimmedMean
from strategies.rule import Mean, Rule
from strategies.support_bound import SupportBound
from strategies.trimmed_mean import TrimmedMean
from strategies.union import Union

RULES: dict[str, type[Rule]] = {
    "mean": Mean,
    "trimmed-mean": TrimmedMean,
    "median": Median,
    "krum": Krum,
    "multi-krum": MultiKrum,
    "bulyan": Bulyan,
    "norm-bound": NormBound,
    "union": Union,
    "per-item-trimmed-mean": PerItemTrimmedMean,
    "per-item-median": PerItemMedian,
    "per-item-krum": PerItemKrum,
    "support-bound": SupportBound,
    "accuracy-check": AccuracyCheck,
    "distance-range": DistanceRange,
}

CLIENT_SIDE = frozenset({"fl-wbc"})
"""Defenses that a chain may name although the server has no part in them: benign nodes run them as a mod."""
