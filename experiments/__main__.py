"""``python -m experiments COMMAND``: the demo, the papers' tables and figures, a run's page, a replay."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from protocol.options import OptionError


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do what it says; returns the exit status."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    asked = parser().parse_args(arguments)
    try:
        return int(asked.run(asked))
    except KeyboardInterrupt:
        print("\rInterrupted: every process is ended; what was completed is kept.", file=sys.stderr)
        return 130
    except OptionError as error:
        print(error, file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="three short runs on the embedded data set: honest, attacked, defended")
    demo.add_argument("--output", type=Path, default=Path("runs"), help="folder for the results (runs)")
    demo.add_argument("--rounds", type=int, default=600)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local (a process a run: faster on a few cores) or ray (nodes as Ray actors, one run after another)",
    )
    demo.set_defaults(run=_demo)
    return made


def _demo(asked: argparse.Namespace) -> int:
    from experiments.demo import demo

    return demo(asked.output, asked.rounds, asked.seed, asked.engine)


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
