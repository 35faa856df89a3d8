"""Deep Model Poisoning beside its baselines, against every defense: which runs, what they measure, one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.images.persistence import WAITS, half_life, success_after, success_at
from experiments.report.round_lines import evaluations, judged, round_lines
from experiments.report.sheet import Sheet
from experiments.runner.cell import Cell
from experiments.runner.completion import Completion
from experiments.runner.entries import cells_of
from experiments.runner.grid import Entry, Grid, Plan
from models import MODELS
from settings.options import Scalar

ROUNDS = 100
"""The paper's; here the attack stops half-way, so that its persistence is seen too."""

MALICIOUS = 0.3
"""The most with which Krum still bears 10 clients a round: it needs 2f + 3 of them."""

SETTINGS: Mapping[str, Mapping[str, Scalar]] = {
    "cifar10": {
        "num-clients": 50,
        "local-epochs": 10,
        "local-learning-rate": 0.1,
        "deep-poisoning-learning-rate": 0.02,
    },
}
MNIST: Mapping[str, Scalar] = {
    "num-clients": 20,
    "local-epochs": 5,
    "local-learning-rate": 0.04,
    "deep-poisoning-learning-rate": 0.01,
}
"""Clients and epochs are the paper's. Rates: see docs/deep_poisoning.md."""

ATTACKS: Mapping[str, tuple[str, Mapping[str, Scalar]]] = {
    "no attack": ("none", {}),
    "label flipping": ("label-flip", {}),
    "model replacement": ("backdoor", {}),
    "alternating minimisation": ("alternating-minimization", {}),
    "deep poisoning, λ = 0": ("deep-poisoning", {"deep-poisoning-penalty": 0.0}),
    "deep poisoning": ("deep-poisoning", {}),
}
DEFENSES: Mapping[str, tuple[str, Mapping[str, Scalar]]] = {
    "no defense": ("none", {}),
    "NormBound": ("norm-bound", {}),
    "Krum": ("krum", {}),
    "MultiKrum": ("multi-krum", {}),
    "TrimmedMean": ("trimmed-mean", {}),
    "Median": ("median", {}),
    "FL-WBC": ("fl-wbc", {"fl-wbc-noise": 3e-3}),
    "accuracy check": ("accuracy-check", {}),
    "distance range": ("distance-range", {}),
}
"""The last two are the detectors."""

STEADY = 5
"""Evaluations of which "when it stops" is the mean."""

SUCCEEDED = 0.1
"""An attack with less success in its last round has nothing whose life could be measured."""


def poisoning_grid(plan: Plan) -> Grid:
    """Every attack against every defense; the attack stops half-way."""
    model = plan.model if MODELS[plan.model].task == "classification" else "lenet"
    entries = list[Entry]()
    for defense, (rule, rule_options) in DEFENSES.items():
        baseline = len(entries)
        for attack, (name, attack_options) in ATTACKS.items():
            rounds = plan.rounds_of(rule)
            options: dict[str, Scalar] = {**SETTINGS.get(plan.dataset, MNIST), "clients-per-round": 10}
            options |= {"dataset": plan.dataset, "model": model, "attack": name, "defense": rule}
            options |= {"num-server-rounds": rounds, "eval-every": 1, "malicious-fraction": MALICIOUS}
            options |= {"attack-stop": max(1, rounds // 2), **rule_options, **plan.extra, **attack_options}
            if name == "none":
                unused = ("deep-poisoning-", "backdoor-", "alternating-", "attack-")
                options = {key: value for key, value in options.items() if not key.startswith(unused)}
            entries.append(Entry((attack, defense), cells_of(plan, options), None, baseline))
    malicious = float(plan.extra.get("malicious-fraction", MALICIOUS))
    title = f"Poisoned image classifiers: {model} on {plan.data}, {100 * malicious:g} % malicious clients"
    return Grid("deep-poisoning", title, ("attack", "defense"), tuple(entries), ("accuracy", "attack_success"))


@dataclass(frozen=True)
class Measured:
    """One run.

    ``success`` and ``accuracy`` when the attack stops; ``clean``: the accuracy, at the same time, of the run of the
    same seed and defense that nobody attacks. ``after``: success by rounds since; ``life``: its half-life.
    ``caught`` and ``suspected``: the share of attackers' and of benign clients' updates that rules dropped meanwhile.
    """

    success: float
    accuracy: float
    clean: float | None
    after: Mapping[int, float]
    life: float
    caught: float | None
    suspected: float | None


def measure(run: Path, stop: int, clean: Path | None) -> Measured:
    """What a run and the one that it is compared with wrote."""
    lines = evaluations(run)
    curve = success_curve(run)
    caught, suspected = flagged(run, stop)
    success = _when_it_stops(lines, stop, "attack_success")
    return Measured(
        success=success,
        accuracy=_when_it_stops(lines, stop, "accuracy"),
        clean=None if clean is None else _when_it_stops(evaluations(clean), stop, "accuracy"),
        after=success_after(curve, stop),
        life=half_life(curve, stop) if min(success, success_at(curve, stop)) >= SUCCEEDED else math.nan,
        caught=caught,
        suspected=suspected,
    )


def success_curve(run: Path) -> dict[int, float]:
    """Attack success by round."""
    return {line["round"]: line["test"]["attack_success"] for line in evaluations(run)}


def flagged(run: Path, stop: int) -> tuple[float | None, float | None]:
    """The share of malicious and of benign users' updates that rules dropped up to a round; ``None`` without any."""
    malicious = benign = caught = suspected = 0
    for line, guilty, dropped in judged(round_lines(run)):
        if line["round"] > stop:
            continue
        malicious, benign = malicious + len(guilty), benign + len(line["users"]) - len(guilty)
        caught, suspected = caught + len(dropped & guilty), suspected + len(dropped - guilty)
    return caught / malicious if malicious else None, suspected / benign if benign else None


def stop_of(one: Cell) -> int:
    """The last attacked round of an attacked run."""
    return int(one.options["attack-stop"])


def poisoning_sheet(grid: Grid, completion: Completion, runs: Path, notes: Sequence[str] = ()) -> Sheet:
    """The table: a line for each run."""
    rows, records = list[list[str]](), list[dict[str, Any]]()
    # A run that nobody attacks is measured in the rounds of those that are compared with it.
    stops = {one.options["defense"]: stop_of(one) for one in grid.cells if one.options["attack"] != "none"}
    for entry in grid.entries:
        calm = grid.entries[entry.baseline or 0]
        for number, one in enumerate(entry.cells):
            found = None
            if one in completion.summaries:
                other = calm.cells[number]
                compared = other in completion.summaries and other is not one
                stop = stops[one.options["defense"]]
                found = measure(runs / one.name, stop, runs / other.name if compared else None)
            record = {"attack": entry.labels[0], "defense": entry.labels[1], "seed": one.options["seed"]}
            rows.append([*entry.labels, str(one.options["seed"]), *_texts(found, one, completion)])
            records.append(record | _numbers(found))
    columns = ["attack", "defense", "seed", "success", "accuracy", "against no attack", "half-life"]
    columns += [f"after {wait}" for wait in WAITS] + ["attackers dropped", "benign dropped"]
    told = ", ".join(map(str, sorted(set(stops.values()))))
    text = " ".join(
        [
            f"The attack stops after round {told}.",
            "Success (poison inputs that get the target's label) and accuracy (test images): means of the last",
            f"{STEADY} rounds before; against no attack: points less than the run of the same seed and defense.",
            f"Half-life (where success is {SUCCEEDED} and more, in their mean and in the last one), and success so",
            "many rounds later: from the curve of every round. Dropped: share of updates, while the attack lasts.",
            "A network that gives every image the target's label has a success of 1 and an accuracy of a tenth.",
        ]
    )
    notices = sorted({str(found["notice"]) for found in completion.summaries.values() if found.get("notice")})
    return Sheet(grid.title, columns, rows, records, [text, *grid.notes, *notices, *notes])


def _texts(found: Measured | None, one: Cell, completion: Completion) -> list[str]:
    if found is None:
        return ["not available" if one in completion.problems else "not run", *[""] * (5 + len(WAITS))]
    attacked = one.options["attack"] != "none"
    difference = "—" if found.clean is None else f"{100 * (found.accuracy - found.clean):+.2f}".replace("-", "−")
    after = [f"{found.after[wait]:.3f}" if attacked and wait in found.after else "—" for wait in WAITS]
    shares = ["—" if share is None else f"{share:.1%}" for share in (found.caught, found.suspected)]
    return [f"{found.success:.3f}", f"{found.accuracy:.4f}", difference, _life(found.life, attacked), *after, *shares]


def _life(value: float, attacked: bool) -> str:
    if not attacked or math.isnan(value):
        return "—"
    return "beyond the end" if math.isinf(value) else f"{value:.1f}"


def _numbers(found: Measured | None) -> dict[str, Any]:
    if found is None:
        return {}
    numbers = {name: getattr(found, name) for name in ("success", "accuracy", "clean", "caught", "suspected")}
    numbers["half_life"] = None if math.isnan(found.life) else found.life
    return numbers | {f"after_{wait}": found.after.get(wait) for wait in WAITS}


def _when_it_stops(lines: Sequence[Mapping[str, Any]], stop: int, metric: str) -> float:
    values = [float(line["test"][metric]) for line in lines if line["round"] <= stop][-STEADY:]
    return math.fsum(values) / len(values)
