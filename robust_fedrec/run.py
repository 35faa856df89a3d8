"""``robust-fedrec run name=value …``: one training in simulation, in this process."""

from __future__ import annotations

import argparse
import sys

from experiments.runner.choices import option_of
from server.app import EXPECTED_ERRORS
from server.simulation import simulate


def main(arguments: list[str] | None = None) -> int:
    """Train as the arguments say; returns 0 where the run completed."""
    parser = argparse.ArgumentParser(
        prog="robust-fedrec run",
        description="Train once, in simulation. robust-fedrec list options names every option with its default.",
        epilog="For example: robust-fedrec run dataset=ml-1m attack=cluster defense=union+norm-bound engine=local",
    )
    parser.add_argument("options", nargs="*", type=option_of, metavar="name=value", help="options over the defaults")
    asked = parser.parse_args(arguments)
    try:
        _, summary = simulate(dict(asked.options))
    except KeyboardInterrupt:
        return 130
    except EXPECTED_ERRORS as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if summary["status"] == "completed" else 1
