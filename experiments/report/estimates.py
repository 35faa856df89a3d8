"""How long a cell should take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from experiments.runner.cell import Cell
from settings.options import Scalar

START = 10.0
"""Seconds until the first round: imports, and the data set out of its cache."""

ROUND_SECONDS: Mapping[str, float] = {"synthetic": 0.008, "ml-1m": 0.017, "gowalla": 0.1}
"""Of MF without attack and defense, evaluations included, on one core; other data sets like ml-1m."""

IMAGE_SECONDS: Mapping[str, float] = {"lenet": 7.0, "resnet8": 120.0, "resnet18": 4000.0}
"""Of a round of 10 clients with the paper's epochs, on MNIST (LeNet) and the reduced CIFAR-10."""

IMAGE_ATTACK_FACTOR = 1.3
"""Where the attack stops half-way."""

ATTACK_FACTOR = 1.5
DEFENSE_FACTORS: Mapping[str, float] = {"none": 1.0, "norm-bound": 1.1, "union": 4.5, "union+norm-bound": 4.5}
OTHER_DEFENSE_FACTOR = 2.0
UNION_FACTOR = 5.0
SASREC_FACTOR = 20.0

Kind = tuple[Scalar, ...]


def kind_of(options: Mapping[str, Scalar]) -> Kind:
    """What runs of about the same speed have in common."""
    attack = str(options["attack"])
    clusters = attack if options["model"] in IMAGE_SECONDS else attack.startswith("cluster")
    task = options.get("contrastive-task", "auto")
    return (options["dataset"], options["model"], options["defense"], clusters, task)


def measured(runs: Path) -> dict[Kind, float]:
    """Seconds a round, evaluations included, of the completed runs in a folder."""
    found: dict[Kind, float] = {}
    for path in runs.glob("*/summary.json"):
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            options = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))["options"]
            if summary["status"] == "completed":
                found[kind_of(options)] = summary["seconds"] / summary["rounds"]
        except (OSError, ValueError, KeyError, ZeroDivisionError):
            continue
    return found


def expected_seconds(cell: Cell, seen: Mapping[Kind, float]) -> float:
    """Seconds that a cell should take: as runs like it took, else by the table above."""
    kind = kind_of(cell.options)
    if kind in seen:
        return START + seen[kind] * cell.rounds
    dataset, model, defense, clusters, _ = kind
    if model in IMAGE_SECONDS:
        factor = 1.0 if clusters == "none" else IMAGE_ATTACK_FACTOR
        return START + IMAGE_SECONDS[str(model)] * factor * cell.rounds
    seconds = ROUND_SECONDS.get(str(dataset), ROUND_SECONDS["ml-1m"])
    usual = UNION_FACTOR if "union" in str(defense) else OTHER_DEFENSE_FACTOR
    seconds *= DEFENSE_FACTORS.get(str(defense), usual) * (ATTACK_FACTOR if clusters else 1.0)
    return START + seconds * (SASREC_FACTOR if model == "sasrec" else 1.0) * cell.rounds
