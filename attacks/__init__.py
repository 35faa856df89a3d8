"""What malicious clients send instead of their honest updates: one attack a file."""

from __future__ import annotations

from attacks.attack import Attack
from protocol.options import OptionError, RunConfig, read
from protocol.plugins import load_class

ATTACKS = {
    "label-flip": "attacks.label_flip:LabelFlip",
    "fed-attack": "attacks.fed_attack:FedAttack",
    "gaussian": "attacks.gaussian:Gaussian",
    "lie": "attacks.lie:Lie",
    "fang": "attacks.fang:Fang",
    "cluster": "attacks.cluster:ClusterAttack",
    "cluster+cl": "attacks.cluster:ClusterAttackWithContrast",
}
"""Attacks by name. A user's own is given as ``my_module:MyAttack``."""


def attack_class(name: str) -> type[Attack]:
    """The class of an attack, by name or as ``module:Class``; raises ``OptionError`` for an unknown one."""
    place = ATTACKS.get(name, name)
    if ":" not in place:
        allowed = ", ".join(["none", *ATTACKS])
        raise OptionError(f"attack = {name!r}: expected one of {allowed}, or a class of yours as 'module:Class'.")
    return load_class("attack", place, Attack)  # type: ignore[type-abstract]


def make_attack(name: str, run_config: RunConfig) -> Attack:
    """An attack with its options out of the run's configuration."""
    kind = attack_class(name)
    return kind(read(kind.Options, run_config, kind.prefix))
