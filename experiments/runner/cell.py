"""A cell of a grid: one run's options, the directory that they lead to, and what stands there."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from server.config import effective, server_config
from server.simulation import default_options
from settings.options import OptionError, Scalar
from settings.run import declaration
from strategies.names import names_of


@dataclass(frozen=True)
class Cell:
    """One run; made by ``cell``. ``chosen``: its options as sorted pairs, so that two tables' equal cells are one."""

    chosen: tuple[tuple[str, Scalar], ...]

    @property
    def options(self) -> dict[str, Scalar]:
        """The options that differ from a run's defaults, or that the grid wants to be sure of."""
        return dict(self.chosen)

    @property
    def rounds(self) -> int:
        """How many rounds it takes."""
        return int(self.options["num-server-rounds"])

    @property
    def digest(self) -> str:
        """Eight hex digits of the SHA-256 of the options, and of the files of classes of the user's own."""
        digest = hashlib.sha256(json.dumps(self.chosen).encode())
        for name in (str(self.options["attack"]), *names_of(str(self.options["defense"]))):
            digest.update(_source(name))
        return digest.hexdigest()[:8]

    @property
    def name(self) -> str:
        """The name of its run directory."""
        options = self.options
        dataset = Path(str(options["dataset"])).name.split(".")[0]
        parts = [dataset, options["model"], options["attack"], options["defense"], f"seed{options['seed']}"]
        return "-".join([*map(str, parts), self.digest]).replace("/", "_").replace(":", "_")

    @property
    def label(self) -> str:
        """What a person calls it."""
        options = self.options
        attackers = f", attackers {options['attacker-seed']}" if "attacker-seed" in options else ""
        return f"{options['attack']} / {options['defense']} / seed {options['seed']}{attackers}"


def cell(options: Mapping[str, Scalar]) -> Cell:
    """The cell of these options; the ones that every run names are completed by their defaults."""
    defaults = default_options()
    named = ("dataset", "model", "attack", "defense", "seed", "num-server-rounds")
    completed = {name: defaults[name] for name in named} | dict(options)
    return Cell(tuple(sorted((name, value) for name, value in completed.items() if declaration(name).numbers)))


@cache
def _source(name: str) -> bytes:
    """What is in the file of ``module:Class``, where that can be found; nothing for other names."""
    module, own, _ = name.partition(":")
    try:
        found = importlib.util.find_spec(module) if own else None
        return Path(found.origin).read_bytes() if found and found.origin else b""
    except (ImportError, OSError, ValueError):
        return b""


def unavailable(wanted: Cell) -> str | None:
    """Why a cell cannot be run here, in the words of the option that refuses; ``None`` where it can."""
    defaults = default_options()
    unknown = sorted(set(wanted.options) - set(defaults))
    if unknown:
        return f"there is no option {unknown[0]!r}"
    try:
        server_config({**defaults, **wanted.options})
    except OptionError as error:
        return str(error)
    return None


def finished(wanted: Cell, runs: Path) -> dict[str, Any] | None:
    """The summary of a completed run of this cell, or ``None``.

    A run made when defaults were others than now does not count: it is another experiment.
    """
    directory = runs / wanted.name
    try:
        summary: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        used = json.loads((directory / "config.json").read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError):
        return None
    if summary.get("status") != "completed":
        return None
    asked = effective(server_config({**default_options(), **wanted.options}))
    compared = [name for name in set(asked) & set(used) if declaration(name).numbers]
    return summary if all(asked[name] == used[name] for name in compared) else None
