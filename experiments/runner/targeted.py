"""Which runs the tables of attacks that promote items are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from experiments.papers import paper
from experiments.runner.entries import entry, percent
from experiments.runner.grid import Entry, Grid, Plan
from settings.options import Scalar

TARGETS: Mapping[str, Scalar] = {"target-items": "coldest:5"}
"""What is promoted, unless ``--set target-items`` says otherwise."""

ATTACKS = ("explicit-boosting", "a-ra", "a-hum", "pieck-ipe", "pieck-uea", "psmu")
DEFENSES = ("none", "norm-bound", "multi-krum", "per-item-median", "hics", "union+norm-bound")
SHARES = (0.001, 0.01, 0.05)
METRICS = ("er@10", "hr@10")


@dataclass(frozen=True)
class Guard:
    """One way in which the contrastive task stands in a run of ``union-targeted``."""

    label: str
    defense: str = "none"
    options: Mapping[str, Scalar] = field(default_factory=dict)


GUARDS = (
    Guard("task off", options={"contrastive-task": "off"}),
    Guard("task on", options={"contrastive-task": "on"}),
    Guard("task on, UNION's filter", "union", {"contrastive-task": "on"}),
    Guard("task on, popularity separated", "popularity-separation", {"contrastive-task": "on"}),
)


def targeted(plan: Plan) -> Grid:
    """Every attack that promotes items against some defenses, by the share of malicious users."""
    shared = _promoting(plan)
    lines = list[Entry]()
    for defense in (*DEFENSES, *plan.defenses):
        at, label = len(lines), paper.defense_label(defense)
        lines += [entry(shared, (label, "no attack", ""), "none", defense, baseline=at)]
        for attack in (*ATTACKS, *plan.attacks):
            for share in SHARES:
                labels = (label, paper.attack_label(attack), percent(share))
                lines += [entry(shared, labels, attack, defense, share, baseline=at)]
    title = f"Attacks that promote items against defenses, {plan.model} on {plan.data}"
    return Grid("targeted", title, ("defense", "attack", "malicious"), tuple(lines), METRICS, (_about(shared),))


def union_targeted(plan: Plan) -> Grid:
    """Every attack that promotes items, with UNION's contrastive task off and on, and on with what goes beside it."""
    shared = _promoting(plan)
    lines = list[Entry]()
    for guard in GUARDS:
        at = len(lines)
        for attack in ("none", *ATTACKS, *plan.attacks):
            labels = (guard.label, paper.attack_label(attack))
            lines += [entry(shared, labels, attack, guard.defense, baseline=at, more=guard.options)]
    title = f"UNION's contrastive task under attacks that promote items, {plan.model} on {plan.data}, 1 % malicious"
    return Grid("union-targeted", title, ("UNION", "attack"), tuple(lines), METRICS, (_about(shared),))


def _promoting(plan: Plan) -> Plan:
    return replace(plan, extra={**TARGETS, **plan.extra})


def _about(plan: Plan) -> str:
    return (
        f"Targets: {plan.extra['target-items']}. ER@10: of the benign users who did not interact with a target, the "
        "share that has it among its ten best; mean over the targets. Test metrics, mean of the last five evaluations."
    )
