"""``python -m data DATASET``: prepare a data set and print its card."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

import data
from data.atomic import write_inter
from data.card import card
from data.columns import EXAMPLE
from data.core import core
from data.interactions import leave_one_out
from settings.options import OptionError, require

ATOMIC = (".inter", ".inter.gz")


def main(arguments: list[str] | None = None) -> int:
    """The command's exit status: 0, or 1 where the data set cannot be had."""
    parser = argparse.ArgumentParser(prog="robust-fedrec data", description="Prepare a data set and print its card.")
    parser.add_argument("dataset", help=f"{', '.join(data.DATASETS)}, or a file ending in {', '.join(data.FORMATS)}")
    parser.add_argument("--data-dir", help="where data sets are kept (ROBUST_FEDREC_DATA, else ~/.cache/robust-fedrec)")
    parser.add_argument("--columns", default="", help=f"what a file's columns are called, such as {EXAMPLE!r}")
    parser.add_argument("--core", type=int, default=0, metavar="K", help="keep users and items with K interactions")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it as a file ending in .inter or .inter.gz")
    options = parser.parse_args(arguments)
    try:
        require(
            not options.output or options.output.name.endswith(ATOMIC),
            "--output",
            str(options.output),
            "a file ending in .inter or .inter.gz",
        )
        interactions = data.load(options.dataset, options.data_dir, options.columns)
        if options.core:
            interactions = core(interactions, options.core)
            require(len(interactions.items) > 0, "--core", options.core, "fewer, so that something is left")
        if options.output:
            write_inter(interactions, options.output)
    except OptionError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{options.output} cannot be written: {error.strerror or error}.", file=sys.stderr)
        return 1
    Console().print(card(interactions, leave_one_out(interactions)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
