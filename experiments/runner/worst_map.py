"""The runs of the map of worst attacks: every defense against every attack by every share of malicious users."""

from __future__ import annotations

from dataclasses import replace

from experiments.papers import paper
from experiments.runner.entries import entry, percent
from experiments.runner.grid import Entry, Grid, Plan, with_rounds

NAME = "worst-case-heatmap"

SHARES = (0.001, 0.005, 0.01, 0.05, 0.1)
"""The first column is that of nobody."""

EVALUATED_UP_TO = 0.05
"""Up to this share of malicious users the same ones are evaluated, whatever the share."""


def worst_map(plan: Plan) -> Grid:
    """Each run is compared with the one that has neither attack nor defense and evaluates the same users."""
    nobody, unguarded = paper.attack_label("none"), paper.defense_label("none")
    larger = [share for share in SHARES if share > EVALUATED_UP_TO]
    lines = [entry(plan, (unguarded, percent(0), nobody), "none", baseline=0)]
    baselines: dict[float, int] = {}
    for share in larger:
        baselines[share] = len(lines)
        labels = (unguarded, percent(0), f"{nobody}, {percent(share)} of the users not evaluated")
        lines.append(entry(plan, labels, "none", fraction=share, baseline=len(lines)))
    attacks = [attack for attack in (*paper.FIGURE_2_ATTACKS, *plan.attacks) if attack != "none"]
    for defense in (*paper.FIGURE_2_DEFENSES, *plan.defenses):
        label = paper.defense_label(defense)
        if defense != "none":
            lines.append(entry(plan, (label, percent(0), nobody), "none", defense, baseline=0))
        for share in SHARES:
            at = baselines.get(share, 0)
            lines += [_attacked(plan, label, attack, defense, share, at) for attack in attacks]
    title = f"The worst attack on every defense, by the share of malicious users, {plan.model} on {plan.data}"
    grid = Grid(NAME, title, ("defense", "malicious", "attack"), tuple(lines))
    return with_rounds(grid, plan.rounds, paper.ROUNDS)


def _attacked(plan: Plan, label: str, attack: str, defense: str, share: float, baseline: int) -> Entry:
    made = entry(plan, (label, percent(share), paper.attack_label(attack)), attack, defense, share)
    return replace(made, baseline=baseline)
