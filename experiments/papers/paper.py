"""What the AAAI 2023 paper set and what it printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from settings.options import Scalar

ROUNDS = 6000
EVALUATIONS = 30
"""Evaluations a run, evenly spread: every 200 rounds of 6,000."""

ATTACKS = {
    "none": "no attack",
    "label-flip": "LabelFlip",
    "fed-attack": "FedAttack",
    "gaussian": "Gaussian",
    "lie": "LIE",
    "fang": "Fang",
    "cluster": "ClusterAttack",
    "cluster+cl": "ClusterAttack+CL",
}
DEFENSES = {
    "none": "no defense",
    "trimmed-mean": "TrimmedMean",
    "krum": "Krum",
    "multi-krum": "MultiKrum",
    "norm-bound": "NormBound",
    "fl-wbc": "FL-WBC",
    "union+multi-krum": "MultiKrum+UNION",
    "union+norm-bound": "NormBound+UNION",
    "union": "UNION",
    "median": "Median",
    "per-item-trimmed-mean": "TrimmedMean per item",
    "per-item-median": "Median per item",
    "per-item-krum": "Krum per item",
}

ORDER = (
    "MultiKrum+UNION and NormBound+UNION, as the paper writes them, are union+multi-krum and union+norm-bound here: "
    "UNION judges all updates, the other rule those that it leaves."
)
"""Why names of defenses stand in another order in labels than in options."""


def attack_label(name: str) -> str:
    """What the paper calls an attack; others go by their own name."""
    return ATTACKS.get(name, name)


def defense_label(name: str) -> str:
    """What the paper calls a defense; others go by their own name."""
    return DEFENSES.get(name, name)


FIGURE_2_ATTACKS = ("none", "label-flip", "fed-attack", "gaussian", "lie", "fang", "cluster")
FIGURE_2_DEFENSES = (
    "none",
    "trimmed-mean",
    "krum",
    "multi-krum",
    "norm-bound",
    "fl-wbc",
    "union+multi-krum",
    "union+norm-bound",
)

SETTINGS: Mapping[tuple[str, str], Mapping[str, Scalar]] = {
    ("ml-1m", "mf"): {"cluster-clusters": 2, "weight-decay": 1e-5, "learning-rate": 2e-3, "norm-bound-threshold": 0.1},
    ("gowalla", "mf"): {
        "cluster-clusters": 8,
        "weight-decay": 1e-6,
        "learning-rate": 2e-3,
        "norm-bound-threshold": 0.1,
    },
    ("ml-1m", "sasrec"): {
        "cluster-clusters": 2,
        "weight-decay": 1e-5,
        "learning-rate": 1e-3,
        "norm-bound-threshold": 1.5,
        "max-length": 200,
    },
    ("gowalla", "sasrec"): {
        "cluster-clusters": 8,
        "weight-decay": 1e-5,
        "learning-rate": 1e-3,
        "norm-bound-threshold": 2.5,
        "max-length": 100,
    },
}
"""The appendix, by data set and model; what it gives for all of them are the options' defaults."""

DEFENDED: Mapping[str, Scalar] = {"mean-weight-bound": 0.0}
"""Of every defended run: the paper's mean believes each user's number of examples."""

OTHER_SETTING: Mapping[str, Scalar] = {"cluster-clusters": 2}
"""For data sets that are not in the paper."""


@dataclass(frozen=True)
class Printed:
    """What the paper prints or draws for one run (mean of five), and where.

    ``change``: HR@5's relative change against the run without an attack, where the paper gives no more than that.
    """

    place: str
    hit_ratio: float | None = None
    ndcg: float | None = None
    change: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """By the metrics' names in a run's summary."""
        named = {"hr@5": self.hit_ratio, "ndcg@5": self.ndcg}
        return {name: value for name, value in named.items() if value is not None}


_TABLE_1 = {
    ("mf", "none"): (0.03549, 0.02226, 0.02523, 0.01697),
    ("mf", "label-flip"): (0.03561, 0.02238, 0.02541, 0.01711),
    ("mf", "fed-attack"): (0.03358, 0.02118, 0.02371, 0.01585),
    ("mf", "gaussian"): (0.03555, 0.02224, 0.02528, 0.01701),
    ("mf", "lie"): (0.03259, 0.02062, 0.02316, 0.01571),
    ("mf", "fang"): (0.03038, 0.01897, 0.02131, 0.01448),
    ("mf", "cluster"): (0.02451, 0.01545, 0.01664, 0.01117),
    ("sasrec", "none"): (0.10810, 0.07053, 0.03251, 0.02217),
    ("sasrec", "label-flip"): (0.10857, 0.07071, 0.03270, 0.02222),
    ("sasrec", "fed-attack"): (0.10013, 0.06572, 0.03054, 0.02087),
    ("sasrec", "gaussian"): (0.10769, 0.07055, 0.03226, 0.02222),
    ("sasrec", "lie"): (0.09677, 0.06281, 0.03008, 0.02021),
    ("sasrec", "fang"): (0.08964, 0.05909, 0.02797, 0.01883),
    ("sasrec", "cluster"): (0.06547, 0.04130, 0.02223, 0.01544),
}
"""HR@5 and NDCG@5 on ML-1M, then on Gowalla; 1 % malicious."""

_TABLE_3 = {
    ("cluster", "union+multi-krum"): 0.03378,
    ("cluster+cl", "union+multi-krum"): 0.03525,
    ("cluster", "union+norm-bound"): 0.03449,
    ("cluster+cl", "union+norm-bound"): 0.03566,
}
_TABLE_4_HALF_A_PERCENT = {"none": 0.03549, "fed-attack": 0.03491, "lie": 0.03465, "fang": 0.03426, "cluster": 0.03001}
_TABLE_5 = {
    "none": (0.03195, 0.03147, 0.02793, 0.01950),
    "union+multi-krum": (0.03438, 0.03447, 0.03454, 0.03291),
    "union+norm-bound": (0.03490, 0.03464, 0.03464, 0.03351),
}
TABLE_5_ATTACKS = ("fed-attack", "lie", "fang", "cluster")
TABLE_4_FEWER = 0.005
"""The smaller of table 4's two shares of malicious users."""

OFF_THE_GRAPHIC = "read off the graphic"

_FIGURE_2 = {
    "trimmed-mean": (0.0321, 0.0319, 0.0312, 0.0318, 0.0312, 0.0299, 0.0243),
    "krum": (0.0270, 0.0268, 0.0263, 0.0273, 0.0262, 0.0260, 0.0231),
    "multi-krum": (0.0354, 0.0346, 0.0343, 0.0350, 0.0337, 0.0336, 0.0247),
    "norm-bound": (0.0357, 0.0349, 0.0346, 0.0353, 0.0345, 0.0337, 0.0251),
    "fl-wbc": (0.0328, 0.0325, 0.0322, 0.0325, 0.0320, 0.0317, 0.0261),
    "union+multi-krum": (0.0353, 0.0357, 0.0350, 0.0354, 0.0350, 0.0348, 0.0342),
    "union+norm-bound": (0.0354, 0.0357, 0.0353, 0.0357, 0.0352, 0.0351, 0.0345),
}
"""HR@5 by ``FIGURE_2_ATTACKS``, good to about 0.00005; MF on ML-1M, 1 % malicious."""

INITIAL_CLUSTERS = (1, 2, 4, 8, 16, 32)
"""Figure 3's initial K. Its text names those up to 16; the plot has 32 as well."""

_FIGURE_3 = {
    ("mf", False): (14.2, 22.9, 26.2, 20.9, 19.1, 15.5),
    ("mf", True): (28.3, 30.9, 29.0, 30.7, 27.9, 29.5),
    ("sasrec", False): (10.0, 32.1, 21.2, 27.5, 16.9, 19.7),
    ("sasrec", True): (38.5, 39.4, 37.4, 37.1, 39.2, 37.2),
}
"""HR@5's relative decrease in percent by ``INITIAL_CLUSTERS``, good to about 0.1, for K fixed and adaptive; ML-1M."""


def drawn_in_figure3(dataset: str, model: str, clusters: int, *, adaptive: bool) -> Printed | None:
    """What figure 3 draws for ClusterAttack with this initial K, or ``None`` where it draws nothing."""
    if dataset != "ml-1m" or (model, adaptive) not in _FIGURE_3 or clusters not in INITIAL_CLUSTERS:
        return None
    decrease = _FIGURE_3[model, adaptive][INITIAL_CLUSTERS.index(clusters)]
    return Printed(f"figure 3, {OFF_THE_GRAPHIC}", change=-decrease / 100)


def printed(dataset: str, model: str, attack: str, defense: str, fraction: float) -> Printed | None:
    """The paper's number for a run, or ``None`` where it has none."""
    if dataset not in ("ml-1m", "gowalla"):
        return None
    if defense == "none" and (model, attack) in _TABLE_1 and (fraction == 0.01 or attack == "none"):
        numbers = _TABLE_1[model, attack]
        return Printed("table 1", *(numbers[:2] if dataset == "ml-1m" else numbers[2:]))
    if (dataset, model) != ("ml-1m", "mf"):
        return None
    if fraction == 0.01 and (attack, defense) in _TABLE_3:
        return Printed("table 3", _TABLE_3[attack, defense])
    if defense == "none" and fraction == TABLE_4_FEWER and attack in _TABLE_4_HALF_A_PERCENT:
        return Printed("table 4", _TABLE_4_HALF_A_PERCENT[attack])
    if fraction == 0.05 and defense in _TABLE_5 and attack in TABLE_5_ATTACKS:
        return Printed("table 5", _TABLE_5[defense][TABLE_5_ATTACKS.index(attack)])
    if fraction == 0.01 and defense in _FIGURE_2 and attack in FIGURE_2_ATTACKS:
        return Printed(f"figure 2, {OFF_THE_GRAPHIC}", _FIGURE_2[defense][FIGURE_2_ATTACKS.index(attack)])
    return None
