"""The table of readings: what the paper's text, its printed formulas and its authors' first program come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from experiments.papers import paper
from experiments.runner.entries import entry
from experiments.runner.grid import Grid, Plan
from server.simulation import default_options
from settings.options import Scalar


@dataclass(frozen=True)
class Reading:
    """One reading of an attack, or of a defense under ClusterAttack: ``options`` are what it sets."""

    label: str
    attack: str
    defense: str = "none"
    options: Mapping[str, Scalar] = field(default_factory=dict)


AS_PRINTED: Mapping[str, Scalar] = {"cluster-threshold-growth": 0.0, "cluster-bound": "clip", "cluster-loss": "sum"}
"""ClusterAttack as Algorithm 1 and Eqs. 2 and 3 are printed."""

ATTACKS = (
    Reading("text", "label-flip"),
    Reading("program", "label-flip", options={"label-flip-reading": "program"}),
    Reading("text: both items re-chosen", "fed-attack"),
    Reading("text: negatives re-chosen", "fed-attack", options={"fed-attack-positives": "own"}),
    Reading("program", "fed-attack", options={"fed-attack-reading": "program"}),
    Reading("text", "gaussian"),
    Reading("program", "gaussian", options={"gaussian-reading": "program"}),
    Reading("text: the formula's z", "lie"),
    Reading("program: z = 0.1", "lie", options={"lie-reading": "program"}),
    Reading("text: against the gradient", "fang"),
    Reading("program: along the gradient", "fang", options={"fang-reading": "program"}),
    Reading("program", "cluster"),
    Reading("Algorithm 1 as printed", "cluster", options={"cluster-threshold-growth": 0.0}),
    Reading("Eq. 3 as printed", "cluster", options={"cluster-bound": "clip"}),
    Reading("Eqs. 2, 3, Algorithm 1 as printed", "cluster", options=AS_PRINTED),
)

UNIONS = (
    Reading("program, the gap statistic alone", "cluster"),
    Reading("program", "cluster", options={"union-drop-small-minority": True}),
    Reading("Eq. 6 as printed", "cluster", options={"union-distance": "squared"}),
    Reading("Algorithm 2 as printed", "cluster", options={"union-step": "sgd"}),
    Reading("Eq. 6, Algorithm 2 as printed", "cluster", options={"union-distance": "squared", "union-step": "sgd"}),
    Reading("contrastive gradient before the bound", "cluster+cl"),
    Reading("contrastive gradient after the bound", "cluster+cl", options={"cluster-contrastive-order": "after"}),
)
"""Under each chain of the paper that begins with UNION."""


def readings(plan: Plan) -> Grid:
    """Every attack and defense that has two readings, each beside the paper's number, 1 % malicious."""
    chains = ("union+multi-krum", "union+norm-bound")
    every = [*ATTACKS, *(replace(one, defense=chain) for chain in chains for one in UNIONS)]
    setting = paper.SETTINGS.get((plan.dataset, plan.model), {})
    decay = float(setting.get("weight-decay", default_options()["weight-decay"]))
    twice: dict[str, Scalar] = {"weight-decay": 2 * decay}
    honest, doubled = "λ/2·‖Θ‖²: program", "λ‖Θ‖²: Eq. 1 as printed"
    nobody, cluster = paper.attack_label("none"), paper.attack_label("cluster")
    unguarded = paper.defense_label("none")
    lines = [
        entry(plan, (nobody, unguarded, honest), "none", baseline=0),
        entry(plan, (nobody, unguarded, doubled), "none", baseline=0, more=twice),
    ]
    for one in every:
        labels = (paper.attack_label(one.attack), paper.defense_label(one.defense), one.label)
        lines.append(entry(plan, labels, one.attack, one.defense, baseline=0, more=one.options))
    lines.append(entry(plan, (cluster, unguarded, doubled), "cluster", baseline=1, more=twice))
    known = {line.labels[:2]: line.printed for line in lines if line.printed}
    entries = tuple(replace(line, printed=known.get(line.labels[:2])) for line in lines)
    title = f"Readings of the paper's attacks and defenses, {plan.model} on {plan.data}, 1 % malicious users"
    note = "The first reading of each attack and defense is the default; docs/attacks.md says what the others change. "
    note += f"Change: against the run without attack and defense; of the last line against the one with {doubled}."
    return Grid("readings", title, ("attack", "defense", "reading"), entries, notes=(note,))
