"""A run directory as the report reads it: options, summary, evaluations, and its rounds thinned to what can be seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report.round_lines import Line, evaluations, judged, round_lines, seen_users
from settings.options import OptionError

MOST_POINTS = 400
"""Points of a curve: rounds are averaged in that many stretches."""

MOST_ROUNDS_OF_USERS = 80
"""Rounds of which every user's uniformity is shown."""

SCATTERED = ("benign, kept", "benign, dropped", "malicious, kept", "malicious, dropped")


@dataclass(frozen=True)
class RunRecord:
    """``curves``: by name, (rounds, values), a value a stretch of rounds; ``users``: by name among ``SCATTERED``,
    (rounds, uniformities of single updates less their round's median).
    """

    name: str
    options: dict[str, Any]
    summary: dict[str, Any]
    evaluations: list[Line]
    curves: dict[str, tuple[list[float], list[float]]]
    users: dict[str, tuple[list[int], list[float]]]


def read_run(run: Path) -> RunRecord:
    """Raises ``OptionError`` where it is no run directory, or the run has not ended."""
    try:
        options = json.loads((run / "config.json").read_text(encoding="utf-8"))["options"]
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        lines = list(round_lines(run))
        found = evaluations(run)
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(f"{run} cannot be reported: {error}. Expected the directory of a run that ended.") from error
    return RunRecord(run.resolve().name, options, summary, found, _curves(lines), _users(lines))


def _curves(lines: Sequence[Line]) -> dict[str, tuple[list[float], list[float]]]:
    columns: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in _numbers(line).items():
            columns.setdefault(name, {})[line["round"]] = value
    curves = {name: _thinned(list(column), list(column.values())) for name, column in columns.items()}
    return curves | _detection_curves(lines)


def _numbers(line: Line) -> dict[str, float]:
    numbers = {"loss": line["loss"], "bytes up": line["bytes_up"], "bytes down": line["bytes_down"]}
    numbers |= {"seconds": line["seconds"], "attack loss": line["attack"].get("loss")}
    numbers |= {"K": line["attack"].get("clusters")}
    return {name: value for name, value in numbers.items() if value is not None}


def _thinned(rounds: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means over at most ``MOST_POINTS`` stretches."""
    pieces = min(MOST_POINTS, len(rounds))
    means = (np.array_split(np.asarray(column, dtype=float), pieces) for column in (rounds, values))
    at, found = ([float(f"{piece.mean():.6g}") for piece in column] for column in means)
    return at, found


def _detection_curves(lines: Sequence[Line]) -> dict[str, tuple[list[float], list[float]]]:
    """Precision and recall of the whole chain, each over a twentieth of the run's rounds."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    if not lines or not any(line["rules"] for line in lines):
        return curves
    for stretch in np.array_split(np.arange(len(lines)), min(20, len(lines))):
        caught = dropped = malicious = 0
        for _, guilty, filtered in judged(lines[index] for index in stretch):
            caught += len(filtered & guilty)
            dropped += len(filtered)
            malicious += len(guilty)
        middle = float(np.mean([lines[index]["round"] for index in stretch]))
        for name, whole in (("precision", dropped), ("recall", malicious)):
            if whole:
                rounds, values = curves.setdefault(name, ([], []))
                rounds.append(middle)
                values.append(caught / whole)
    return curves


def _users(lines: Sequence[Line]) -> dict[str, tuple[list[int], list[float]]]:
    with_union = [line for line in lines if "scores" in line["rules"].get("union", {})]
    chosen = np.linspace(0, len(with_union) - 1, min(MOST_ROUNDS_OF_USERS, len(with_union))).round().astype(int)
    points: dict[str, tuple[list[int], list[float]]] = {name: ([], []) for name in SCATTERED} if with_union else {}
    for index in dict.fromkeys(chosen.tolist()):
        line = with_union[index]
        found = line["rules"]["union"]
        dropped, malicious = set(found["filtered"]), set(line["malicious"])
        middle = float(np.median([score for score in found["scores"] if score is not None] or [0.0]))
        for user, score in zip(seen_users(line, "union"), found["scores"], strict=True):
            name = f"{'malicious' if user in malicious else 'benign'}, {'dropped' if user in dropped else 'kept'}"
            points[name][0].append(line["round"])
            points[name][1].append(float(f"{middle - score:.6g}"))
    return points
