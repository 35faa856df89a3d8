"""The command line's choices for a grid: what to run, and where."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.papers import paper
from experiments.runner.completion import Place
from experiments.runner.grid import Plan
from experiments.runner.pool import default_jobs
from models import MODELS
from server.simulation import default_options
from settings import plugins
from settings.options import OptionError, Scalar, unknown_option
from settings.paths import absolute
from settings.run import declaration

SET_OTHERWISE = {
    "dataset": "--dataset",
    "model": "--model",
    "seed": "--seeds",
    "attacker-seed": "--attacker-seeds",
    "num-server-rounds": "--rounds",
    "attack": "--add-attack",
    "defense": "--add-defense",
    "malicious-fraction": "another table",
    "output-dir": "--runs",
    "run-name": "--runs: runs are named by their options",
    "resume": "nothing: a grid goes on by itself",
    "plugin-options": "nothing: in a table your own classes keep their defaults",
}
"""Options that ``--set`` does not take, because a grid sets them itself, and what to use instead."""


def add_grid_options(parser: argparse.ArgumentParser, task: str = "recommendation") -> None:
    """What every table and figure can be told; ``task``: what its models are for."""
    models = [name for name, card in MODELS.items() if card.task == task]
    parser.add_argument("--dataset", default="ml-1m", help="ml-1m, gowalla, synthetic, or a file (ml-1m)")
    parser.add_argument("--model", default="mf", choices=models, help=f"one of {', '.join(models)} ({models[0]})")
    parser.add_argument("--seeds", type=at_least_one, default=1, help="how many: 0, 1, … (1; the paper: 5)")
    parser.add_argument(
        "--attacker-seeds",
        type=at_least_one,
        default=0,
        metavar="N",
        help="each seed with the same N choices of the malicious users, which tells both spreads apart (each seed "
        "draws its own)",
    )
    parser.add_argument("--rounds", type=at_least_one, default=paper.ROUNDS, help=f"of each run ({paper.ROUNDS})")
    parser.add_argument(
        "--rounds-for",
        action="append",
        default=[],
        type=_rounds_for,
        metavar="DEFENSE=ROUNDS",
        help="fewer rounds for a slow defense; its cells are marked; may be given several times",
    )
    for kind in ("attack", "defense"):
        parser.add_argument(
            f"--add-{kind}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"one more {kind} than the paper's: a name as in the option {kind}, or module:Class of your own",
        )
    parser.add_argument(
        "--set",
        action="append",
        type=option_of,
        default=[],
        metavar="OPTION=VALUE",
        dest="extra",
        help="an option of pyproject.toml for all runs; with one that changes numbers the paper's are left out",
    )
    add_place_options(parser)


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Where runs are kept, how they are made, and whether any is."""
    parser.add_argument("--jobs", type=int, default=0, help="runs at a time (as cores and memory allow)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run directories (runs)")
    parser.add_argument("--output", type=Path, help="folder for tables and figures (RUNS/results)")
    parser.add_argument("--data-dir", default="", help="where data sets are kept")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="of each run (local)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and the time they should take")
    parser.add_argument("--no-run", action="store_true", help="write what there is, run nothing")


def plan_of(asked: argparse.Namespace) -> Plan:
    """What to run. Raises ``OptionError``."""
    for name, _ in asked.extra:
        if name in SET_OTHERWISE and (name, asked.command) != ("malicious-fraction", "deep-poisoning"):
            raise OptionError(f"--set {name}: a table sets it itself; use {SET_OTHERWISE[name]}.")
    seeds = tuple(range(asked.seeds))
    attackers = tuple(range(asked.attacker_seeds))
    more = {"attacks": tuple(asked.add_attack), "defenses": tuple(asked.add_defense)}
    return Plan(
        asked.dataset, asked.model, seeds, attackers, asked.rounds, dict(asked.rounds_for), dict(asked.extra), **more
    )


def place_of(asked: argparse.Namespace) -> Place:
    """Where and how to run it."""
    where: dict[str, Scalar] = {"engine": asked.engine, "num-nodes": 1 if asked.engine == "local" else 0}
    where |= {name: value for name, value in asked.extra if not declaration(name).numbers}
    if asked.data_dir:
        where["data-dir"] = str(absolute("--data-dir", asked.data_dir))
    if where.get("plugin-dir"):
        where["plugin-dir"] = str(absolute("plugin-dir", str(where["plugin-dir"])))
        plugins.search(str(where["plugin-dir"]))
    return Place(absolute("--runs", asked.runs), max(asked.jobs, 0) or default_jobs(), where)


def option_of(text: str) -> tuple[str, Scalar]:
    """``cluster-clusters=4`` as an option and its value, of the type of its default."""
    name, found, value = text.partition("=")
    defaults = default_options()
    if not found:
        raise argparse.ArgumentTypeError(f"{text}: expected OPTION=VALUE.")
    if name not in defaults:
        raise argparse.ArgumentTypeError(unknown_option(name, defaults))
    kind = type(defaults[name])
    if kind is bool and value.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text}: expected true or false.")
    if kind is bool:
        return name, value.lower() == "true"
    try:
        return name, kind(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {value!r} is no {kind.__name__}.") from error


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number, at least 1.")
    return int(text)


def _rounds_for(text: str) -> tuple[str, int]:
    defense, _, rounds = text.rpartition("=")
    if not defense or not rounds.isdecimal() or int(rounds) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected DEFENSE=ROUNDS, say krum=3000.")
    return defense, int(rounds)
