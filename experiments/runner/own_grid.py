"""A grid of one's own: attacks × defenses × data sets × models, with the paper's settings where it has any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.papers import paper
from experiments.runner.entries import entry
from experiments.runner.grid import Entry, Grid, Plan, with_rounds
from models import MODELS
from settings.options import require

NAME = "grid"
HONEST = "none"


@dataclass(frozen=True)
class Axes:
    """What is combined with what; ``fraction``: the share of malicious users."""

    attacks: Sequence[str]
    defenses: Sequence[str]
    datasets: Sequence[str]
    models: Sequence[str]
    fraction: float


def own_grid(plan: Plan, axes: Axes) -> Grid:
    """Every combination; an attack is compared with the run of its defense, data set and model that nobody attacks.

    Raises ``OptionError`` for an empty axis or a model that does not exist.
    """
    for name in ("attacks", "defenses", "datasets", "models"):
        require(bool(getattr(axes, name)), f"--{name}", "", "at least one name")
    for model in axes.models:
        require(model in MODELS, "--models", model, "one of " + ", ".join(MODELS))
    lines: list[Entry] = []
    for dataset in axes.datasets:
        for model in axes.models:
            for defense in axes.defenses:
                lines += _compared(replace(plan, dataset=dataset, model=model), axes, defense, len(lines))
    title = f"{', '.join(axes.models)} on {', '.join(map(_short, axes.datasets))}, {100 * axes.fraction:g} % malicious"
    grid = Grid(NAME, title, ("data set", "model", "defense", "attack"), tuple(lines), ("hr@5", "ndcg@5"))
    return with_rounds(grid, plan.rounds, paper.ROUNDS)


def _compared(plan: Plan, axes: Axes, defense: str, first: int) -> list[Entry]:
    honest = first + axes.attacks.index(HONEST) if HONEST in axes.attacks else None
    named = (_short(plan.dataset), plan.model, paper.defense_label(defense))
    return [
        entry(plan, (*named, paper.attack_label(attack)), attack, defense, axes.fraction, baseline=honest)
        for attack in axes.attacks
    ]


def _short(dataset: str) -> str:
    return Path(dataset).name


def names(text: str) -> list[str]:
    """``"none,cluster"`` as its names, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
