"""``python -m data DATASET``: prepare a data set and print its card."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

import data
from data.card import card
from data.columns import EXAMPLE
from data.interactions import leave_one_out
from settings.options import OptionError


def main(arguments: list[str] | None = None) -> int:
    """The command's exit status: 0, or 1 where the data set cannot be had."""
    parser = argparse.ArgumentParser(prog="robust-fedrec data", description="Prepare a data set and print its card.")
    parser.add_argument("dataset", help=f"{', '.join(data.DATASETS)}, or a file ending in {', '.join(data.FORMATS)}")
    parser.add_argument("--data-dir", help="where data sets are kept (ROBUST_FEDREC_DATA, else ~/.cache/robust-fedrec)")
    parser.add_argument("--columns", default="", help=f"what a file's columns are called, such as {EXAMPLE!r}")
    options = parser.parse_args(arguments)
    try:
        interactions = data.load(options.dataset, options.data_dir, options.columns)
    except OptionError as error:
        print(error, file=sys.stderr)
        return 1
    Console().print(card(interactions, leave_one_out(interactions)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
