"""What malicious clients send instead of their honest updates: one attack a file."""

from __future__ import annotations

import importlib

from attacks.attack import Attack
from protocol.options import OptionError, RunConfig, read

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
    module, found, attribute = place.partition(":")
    if not found:
        allowed = ", ".join(["none", *ATTACKS])
        raise OptionError(f"attack = {name!r}: expected one of {allowed}, or a class of yours as 'module:Class'.")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OptionError(
            f"attack = {name!r}: cannot load it ({error}). Expected a class {attribute or '?'} in a module "
            f"{module or '?'} that Python can import; set plugin-dir to its folder."
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Attack)):
        raise OptionError(f"attack = {name!r}: expected a subclass of attacks.attack.Attack.")
    return kind


def make_attack(name: str, run_config: RunConfig) -> Attack:
    """An attack with its options out of the run's configuration."""
    kind = attack_class(name)
    return kind(read(kind.Options, run_config, kind.prefix))
