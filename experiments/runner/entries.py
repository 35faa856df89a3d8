"""A line of a table from what it compares to its runs: the paper's settings, a run for each seed."""

from __future__ import annotations

from collections.abc import Mapping

from data import located
from experiments.papers import paper
from experiments.runner.cell import Cell, cell
from experiments.runner.grid import Entry, Plan
from settings.options import Scalar, require

NOTHING: Mapping[str, Scalar] = {}


def options(
    plan: Plan, attack: str, defense: str, fraction: float, more: Mapping[str, Scalar] = NOTHING
) -> dict[str, Scalar]:
    """A run's options as the paper sets them, and ``more``; without attack what concerns ClusterAttack is left out.

    Raises ``OptionError`` where the plan wants other values for ``more``, by which the grid's lines differ.
    """
    for name in sorted(set(more) & set(plan.extra)):
        require(False, name, plan.extra[name], "an option by which the lines of this table do not differ")
    rounds = plan.rounds_of(defense)
    setting = paper.SETTINGS.get((plan.dataset, plan.model), paper.OTHER_SETTING)
    chosen: dict[str, Scalar] = dict(setting)
    # A run is a process in another folder: a file's path must not count from here.
    chosen |= {"dataset": located(plan.dataset), "model": plan.model, "attack": attack, "defense": defense}
    chosen |= {"num-server-rounds": rounds, "eval-every": max(1, rounds // paper.EVALUATIONS)}
    chosen |= {"malicious-fraction": fraction, **({} if defense == "none" else paper.DEFENDED)}
    chosen |= {**more, **plan.extra}
    if attack == "none":
        chosen = {name: value for name, value in chosen.items() if not name.startswith("cluster-")}
    return chosen


def cells_of(plan: Plan, asked: Mapping[str, Scalar]) -> tuple[Cell, ...]:
    """The runs of these options, one for each seed, or for each seed with each choice of the malicious users."""
    pairs = [(seed, attackers) for seed in plan.seeds for attackers in plan.attacker_seeds or (seed,)]
    # A run whose seed draws its own malicious users is named as without a choice of these, so that it is one run.
    own = [{} if attackers == seed else {"attacker-seed": attackers} for seed, attackers in pairs]
    return tuple(cell({**asked, "seed": seed, **more}) for (seed, _), more in zip(pairs, own, strict=True))


def entry(
    plan: Plan,
    labels: tuple[str, ...],
    attack: str,
    defense: str = "none",
    fraction: float = 0.01,
    baseline: int | None = None,
    more: Mapping[str, Scalar] = NOTHING,
) -> Entry:
    """A line of a table with its runs."""
    cells = cells_of(plan, options(plan, attack, defense, fraction, more))
    as_printed = not more and not plan.changed
    known = paper.printed(plan.dataset, plan.model, attack, defense, fraction) if as_printed else None
    return Entry(labels, cells, known, baseline)


def percent(fraction: float) -> str:
    """0.001 is "0.1 %"."""
    return f"{100 * fraction:g} %"
