"""A simulated run from Python, without the ``flwr`` command: for experiments, benchmarks, tests and the demo."""

from __future__ import annotations

import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from server.config import server_config
from server.grids.engine import open_engine
from server.results.run_directory import dropped_if_unused, make_run_directory
from server.training import run_training
from settings.options import OptionError, Scalar, unknown_option

PROJECT = Path(__file__).resolve().parent.parent


def default_options() -> dict[str, Scalar]:
    """Every option of a run with its default, as ``pyproject.toml`` gives them."""
    with (PROJECT / "pyproject.toml").open("rb") as file:
        options: dict[str, Scalar] = tomllib.load(file)["tool"]["flwr"]["app"]["config"]
    return options


def simulate(options: Mapping[str, Scalar]) -> tuple[Path, dict[str, Any]]:
    """Train with these options over the defaults; the run's directory and its summary.

    Raises ``OptionError`` for an option that does not exist, as ``flwr run`` refuses it.
    """
    defaults = default_options()
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise OptionError(unknown_option(unknown[0], defaults))
    run_config = {**defaults, **options}
    config = server_config(run_config)
    directory = make_run_directory(config)
    context = Context(secrets.randbits(62), 0, {}, RecordDict(), run_config)
    with dropped_if_unused(directory), open_engine(None, config, context, directory) as grid:
        return directory, run_training(grid, config, directory)
