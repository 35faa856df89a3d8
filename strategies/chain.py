"""A defense by its name: "union+multi-krum" is Union around MultiKrum around the mean."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from settings.options import OptionError, RunConfig, read
from settings.plugins import load_class
from strategies import CLIENT_SIDE, RULES
from strategies.names import names_of
from strategies.rule import Combiner, Mean, Rule, Wrapper


def compose(defense: str, run_config: RunConfig, clients_per_round: int, malicious_fraction: float) -> Rule:
    """The chain of rules that ``defense`` names, outermost first, each with its options out of the run configuration.

    "a+b+c" hands what a leaves to b, and what b leaves to c; "none" is the plain mean. A combiner may only
    stand last. A name with a colon, "my_module:MyRule", is a class of the user's own. Rules may assume
    ⌈clients_per_round · malicious_fraction⌉ malicious users in a round. Raises ``OptionError``.
    """
    # Rounded first: 0.07 · 100 is 7.000000000000001, and must not become 8.
    num_malicious = math.ceil(round(clients_per_round * malicious_fraction, 9))
    names = [name for name in names_of(defense) if name not in CLIENT_SIDE]
    chain: Rule | None = None
    for name in reversed(names):
        rule_class = find(name)
        options = read_options(rule_class, run_config)
        if hasattr(options, "settled"):
            options = options.settled(clients_per_round, num_malicious)
        if issubclass(rule_class, Wrapper):
            chain = rule_class(chain, options)
        elif chain is not None:
            raise OptionError(
                f"defense = {defense!r}: {name} combines all updates to one, so that no rule can follow it. "
                "Put it last."
            )
        elif issubclass(rule_class, Combiner):
            chain = rule_class(options)
        else:
            raise OptionError(f"defense = {defense!r}: {name} is neither a Wrapper nor a Combiner of strategies.rule.")
    return chain or Mean()


def links(rule: Rule) -> Iterator[Rule]:
    """The rules of a chain one by one, the outermost first."""
    left: Rule | None = rule
    while left is not None:
        yield left
        left = left.inner if isinstance(left, Wrapper) else None


def find(name: str) -> type[Rule]:
    """The class of a rule, by its name here or as "module:Class". Raises ``OptionError``."""
    if name in RULES:
        return RULES[name]
    if ":" not in name:
        allowed = ", ".join(["none", *RULES, *sorted(CLIENT_SIDE)])
        raise OptionError(
            f"defense: there is no rule {name!r}. Expected one of {allowed}, several joined by '+', "
            'or a class of your own as "my_module:MyRule".'
        )
    return load_class("defense", name, Rule)  # type: ignore[type-abstract]


def read_options(rule_class: type[Rule], run_config: RunConfig) -> object:
    """A rule's options out of a run configuration, under the rule's prefix. Raises ``OptionError``."""
    if not dataclasses.is_dataclass(rule_class.Options):
        raise OptionError(f"defense: {rule_class.__name__}.Options must be a frozen dataclass.")
    return read(rule_class.Options, run_config, prefix_of(rule_class))


def prefix_of(rule_class: type[Rule]) -> str:
    """What stands in front of a rule's options."""
    return rule_class.prefix or rule_class.name
