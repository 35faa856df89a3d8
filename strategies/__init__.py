"""Robust rules over updates, and the Flower strategy that runs them."""

from robust_fedrec import require_own

require_own(__name__)

from strategies.rule import Mean, Rule
from strategies.rules.accuracy_check import AccuracyCheck
from strategies.rules.bucketing import Bucketing
from strategies.rules.bulyan import Bulyan
from strategies.rules.centered_clipping import CenteredClipping
from strategies.rules.distance_range import DistanceRange
from strategies.rules.divide_and_conquer import DivideAndConquer
from strategies.rules.flame import Flame
from strategies.rules.fltrust import FlTrust
from strategies.rules.fools_gold import FoolsGold
from strategies.rules.geometric_median import GeometricMedian
from strategies.rules.hics import Hics
from strategies.rules.krum import Krum, MultiKrum
from strategies.rules.meamed import Meamed
from strategies.rules.median import Median
from strategies.rules.nearest_neighbor_mixing import NearestNeighborMixing
from strategies.rules.norm_bound import NormBound
from strategies.rules.per_item import PerItemKrum, PerItemMedian, PerItemTrimmedMean
from strategies.rules.popularity_separation import PopularitySeparation
from strategies.rules.sign_guard import SignGuard
from strategies.rules.support_bound import SupportBound
from strategies.rules.trimmed_mean import TrimmedMean
from strategies.rules.union import Union

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
    "geometric-median": GeometricMedian,
    "centered-clipping": CenteredClipping,
    "meamed": Meamed,
    "nnm": NearestNeighborMixing,
    "bucketing": Bucketing,
    "dnc": DivideAndConquer,
    "flame": Flame,
    "fools-gold": FoolsGold,
    "sign-guard": SignGuard,
    "fltrust": FlTrust,
    "hics": Hics,
    "popularity-separation": PopularitySeparation,
}

CLIENT_SIDE = frozenset({"fl-wbc"})
"""Defenses that a chain may name although the server has no part in them: benign nodes run them."""
