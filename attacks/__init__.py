"""What malicious clients send instead of their honest updates: one attack a file."""

from __future__ import annotations

from robust_fedrec import require_own

require_own(__name__)

from attacks.attack import Attack
from models import MODELS
from settings.options import OptionError, RunConfig, read
from settings.plugins import load_class

ATTACKS = {
    "label-flip": "attacks.recommenders.label_flip:LabelFlip",
    "fed-attack": "attacks.recommenders.fed_attack:FedAttack",
    "gaussian": "attacks.updates.gaussian:Gaussian",
    "lie": "attacks.updates.lie:Lie",
    "fang": "attacks.updates.fang:Fang",
    "ipm": "attacks.updates.inner_product_manipulation:InnerProductManipulation",
    "sign-flip": "attacks.updates.sign_flip:SignFlip",
    "min-max": "attacks.updates.distance_bounded:MinMax",
    "min-sum": "attacks.updates.distance_bounded:MinSum",
    "mimic": "attacks.updates.mimic:Mimic",
    "cluster": "attacks.recommenders.cluster:ClusterAttack",
    "cluster+cl": "attacks.recommenders.cluster:ClusterAttackWithContrast",
    "cluster-uniform": "attacks.recommenders.uniform_cluster:UniformClusterAttack",
    "explicit-boosting": "attacks.recommenders.explicit_boosting:ExplicitBoosting",
    "a-ra": "attacks.recommenders.approximated_users:ARa",
    "a-hum": "attacks.recommenders.approximated_users:AHum",
    "pieck-ipe": "attacks.recommenders.pieck:PieckIpe",
    "pieck-uea": "attacks.recommenders.pieck:PieckUea",
    "psmu": "attacks.recommenders.psmu:Psmu",
    "fed-rec-attack": "attacks.recommenders.fed_rec_attack:FedRecAttack",
    "spattack-o": "attacks.recommenders.spattack:SpattackO",
    "spattack-l": "attacks.recommenders.spattack:SpattackL",
}
"""Attacks on recommenders by name. A user's own is given as ``my_module:MyAttack``."""

IMAGE_ATTACKS = {
    "label-flip": "attacks.images.backdoor:ImageLabelFlip",
    "backdoor": "attacks.images.backdoor:Backdoor",
    "alternating-minimization": "attacks.images.alternating_minimization:AlternatingMinimization",
    "deep-poisoning": "attacks.images.deep_poisoning:DeepPoisoning",
    "gaussian": "attacks.updates.gaussian:Gaussian",
    "lie": "attacks.updates.lie:Lie",
    "fang": "attacks.updates.fang:Fang",
    "ipm": "attacks.updates.inner_product_manipulation:InnerProductManipulation",
    "sign-flip": "attacks.updates.sign_flip:SignFlip",
    "min-max": "attacks.updates.distance_bounded:MinMax",
    "min-sum": "attacks.updates.distance_bounded:MinSum",
    "mimic": "attacks.updates.mimic:Mimic",
}
"""Attacks on image classifiers by name."""

ATTACKS_ON = {"recommendation": ATTACKS, "classification": IMAGE_ATTACKS}
"""The attacks that fit a task."""


def attack_class(name: str, model: str = "mf") -> type[Attack]:
    """The class of an attack on a model, by name or as ``module:Class``.

    Raises ``OptionError`` for one that is unknown, or made for models of another kind.
    """
    fitting = ATTACKS_ON[MODELS[model].task]
    place = fitting.get(name, name)
    if ":" not in place:
        allowed = ", ".join(["none", *fitting])
        known = any(name in attacks for attacks in ATTACKS_ON.values())
        why = f"does not fit model = {model!r}; " if known else ""
        raise OptionError(f"attack = {name!r}: {why}expected one of {allowed}, or a class of yours as 'module:Class'.")
    return load_class("attack", place, Attack)  # type: ignore[type-abstract]


def make_attack(name: str, run_config: RunConfig) -> Attack:
    """An attack with its options out of the run's configuration, which also names the model."""
    kind = attack_class(name, str(run_config.get("model", "mf")))
    return kind(read(kind.Options, run_config, kind.prefix))
