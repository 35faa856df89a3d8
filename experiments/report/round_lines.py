"""Reading what a run wrote: a line a round, a line an evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def round_lines(run: Path) -> Iterator[Line]:
    """The lines of ``rounds.jsonl``, one at a time; a last one that was cut off is left out."""
    yield from _lines(run / "rounds.jsonl")


def evaluations(run: Path) -> list[Line]:
    """The lines of ``metrics.jsonl``."""
    return list(_lines(run / "metrics.jsonl"))


def seen_users(line: Mapping[str, Any], rule: str) -> list[int]:
    """The users whom a rule judged in this round, in the order of its scores: those whom no earlier rule dropped."""
    users: list[int] = list(line["users"])
    for name, found in line["rules"].items():
        if name == rule:
            break
        dropped = set(found["filtered"])
        users = [user for user in users if user not in dropped]
    return users


def dropped_users(line: Mapping[str, Any]) -> set[int]:
    """The users whom any rule dropped in this round."""
    return {user for found in line["rules"].values() for user in found["filtered"]}


def judged(lines: Iterable[Line]) -> Iterator[tuple[Line, set[int], set[int]]]:
    """The rounds in which any rule judged, each with its attackers and with the users whom a rule dropped."""
    for line in lines:
        if line["rules"]:
            yield line, set(line["malicious"]), dropped_users(line)


def _lines(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8") as file:
        for text in file:
            if text.endswith("\n"):
                yield json.loads(text)
