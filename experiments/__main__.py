"""``python -m experiments COMMAND``: the demo, the papers' tables and figures, a run's page, a replay."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from pathlib import Path

from experiments.papers import poisoning
from experiments.runner.choices import add_grid_options, add_place_options, at_least_one, option_of, place_of, plan_of
from experiments.runner.grid import Grid
from experiments.runner.own_grid import names
from robust_fedrec.command import reader_left
from settings.options import OptionError

GRID_COMMANDS = {
    "table1": "attacks without a defense",
    "table3": "an attacker who also trains UNION's task",
    "table4": "fewer malicious users",
    "table5": "more malicious users",
    "figure2": "every defense against every attack",
    "figure3": "adaptive and fixed K over the initial K",
    "figure4": "projections of updates, densities of uniformities",
    "all": "all of the above",
    "defense-tax": "what each defense costs where nobody attacks",
    "ratios": "0.1, 0.5, 1 and 5 % malicious users",
    "recovery": "an attack that stops half-way, and its half-life",
    "readings": "the paper's text, its printed formulas, its authors' first program: what the choice does",
    "worst-case": "each defense under its worst attack",
    "targeted": "attacks that promote items against defenses: exposure and hit ratio, 0.1, 1 and 5 % malicious",
    "union-targeted": "whether UNION's contrastive task helps or hinders promoting items",
    "deep-poisoning": "attacks on image classifiers against every defense (--dataset mnist --model lenet --rounds 100)",
}
OWN_DEFAULTS = {"deep-poisoning": {"dataset": "mnist", "model": "lenet", "rounds": poisoning.ROUNDS}}
"""Of commands that are about something else than the paper's recommenders."""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do what it says; returns the exit status."""
    try:
        asked = parser().parse_args(arguments)
        status = int(asked.run(asked))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("\rInterrupted: every process is ended; what was completed is kept.", file=sys.stderr)
        return 130
    except OptionError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        return reader_left()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "The demo, the papers' tables and figures, a run's page, a replay."
    made = argparse.ArgumentParser(prog="robust-fedrec experiments", description=about)
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="three short runs on the embedded data set: honest, attacked, defended")
    demo.add_argument("--output", type=Path, default=Path("runs"), help="folder for the results (runs)")
    demo.add_argument("--rounds", type=at_least_one, default=600)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local (a process a run: faster on a few cores) or ray (nodes as Ray actors, one run after another)",
    )
    demo.set_defaults(run=_demo)
    for name, about in GRID_COMMANDS.items():
        grid = commands.add_parser(name, help=about.replace("%", "%%"), description=about)
        add_grid_options(grid, "classification" if name == "deep-poisoning" else "recommendation")
        if name == "worst-case":
            by_share = (
                "the worst attack by the share of malicious users, from 0 to 10 %%, as a heat map (249 runs a seed)"
            )
            grid.add_argument("--heatmap", action="store_true", help=by_share)
        grid.set_defaults(run=_grid, command=name, **OWN_DEFAULTS.get(name, {}))
    own = commands.add_parser("grid", help="attacks × defenses × data sets × models of your choice")
    add_grid_options(own)
    for name, default in (("attacks", "none,cluster"), ("defenses", "none"), ("datasets", ""), ("models", "")):
        own.add_argument(
            f"--{name}", type=names, default=names(default), metavar="A,B,…", help="names, joined by commas"
        )
    own.add_argument("--fraction", type=float, default=0.01, help="share of malicious users (0.01)")
    own.set_defaults(run=_grid, command="grid")
    about = "all of the evidence, or as much as fits into some hours: the most important runs first"
    everything = commands.add_parser("reproduce", help=about, description=about)
    everything.add_argument(
        "--budget", type=_hours, default=math.inf, metavar="HOURS", help="begin no run that ends later"
    )
    add_place_options(everything)
    everything.set_defaults(run=_reproduce, extra=[])
    power = commands.add_parser("power", help="how many seeds a table needs for intervals of a given width")
    power.add_argument("command", metavar="TABLE", choices=[name for name in GRID_COMMANDS if name != "all"])
    add_grid_options(power)
    power.add_argument("--width", type=float, default=5.0, help="of the 95 %% interval of a change, in points (5)")
    power.set_defaults(run=_power)
    listed = commands.add_parser("list", help="the runs of a folder: status, metrics, the options in which they differ")
    listed.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=Path("runs"), help="(runs)")
    listed.set_defaults(run=_list)
    replay = commands.add_parser("replay", help="judge a run's recorded updates with any defense, offline")
    replay.add_argument("directory", metavar="RUN", type=Path, help="a run made with record-updates")
    replay.add_argument("--defense", action="append", required=True, help="may be given several times")
    replay.add_argument("--set", action="append", type=option_of, default=[], metavar="OPTION=VALUE", dest="extra")
    replay.set_defaults(run=_replay)
    groups = commands.add_parser("groups", help="a run's HR by user activity and item popularity, and its coverage")
    groups.add_argument("directory", metavar="RUN", type=Path, help="a run of MF that was made with checkpoints")
    groups.set_defaults(run=_groups)
    users = commands.add_parser("users", help="two runs user by user: McNemar's test, an interval over users")
    users.add_argument("directories", metavar="RUN", nargs=2, type=Path, help="runs of MF made with checkpoints")
    users.set_defaults(run=_users)
    report = commands.add_parser("report", help="one HTML page about a run, or comparing several")
    report.add_argument("directories", metavar="RUN", type=Path, nargs="+")
    report.add_argument(
        "--output", type=Path, help="the file (report.html in the run's folder; of several: comparison.html)"
    )
    report.set_defaults(run=_report)
    return made


# Each command imports what it needs: the help is there at once.
def _demo(asked: argparse.Namespace) -> int:
    from experiments.demo import demo

    try:
        return demo(asked.output, asked.rounds, asked.seed, asked.engine)
    except KeyboardInterrupt:
        print("\rInterrupted. The demo does not go on later: it takes minutes, start it again.", file=sys.stderr)
        return 130


def _grid(asked: argparse.Namespace) -> int:
    from rich.console import Console

    from experiments.papers.results import in_order, make
    from experiments.runner.completion import listing

    grids, place = _grids(asked), place_of(asked)
    if asked.dry_run:
        print(listing(in_order(grids), place))
        return 0
    output = asked.output or place.runs / "results"
    return make(grids, place, output.absolute(), Console(), run=not asked.no_run)


def _reproduce(asked: argparse.Namespace) -> int:
    from rich.console import Console

    from experiments.papers.reproduction import PARTS, cells_of, reproduce
    from experiments.runner.completion import listing

    place = place_of(asked)
    if asked.dry_run:
        print(listing(cells_of(PARTS), place))
        return 0
    output = asked.output or place.runs / "results"
    return reproduce(PARTS, place, output.absolute(), Console(), asked.budget, run=not asked.no_run)


def _grids(asked: argparse.Namespace) -> list[Grid]:
    from experiments.papers.results import names_of
    from experiments.runner.grids import grids_of, noted
    from experiments.runner.own_grid import Axes, own_grid

    plan = plan_of(asked)
    if getattr(asked, "heatmap", False):
        from experiments.runner.worst_map import worst_map

        return noted([worst_map(plan)], plan)
    if asked.command != "grid":
        return grids_of(names_of(asked.command), plan)
    datasets, models = asked.datasets or [asked.dataset], asked.models or [asked.model]
    return [own_grid(plan, Axes(asked.attacks, asked.defenses, datasets, models, asked.fraction))]


def _power(asked: argparse.Namespace) -> int:
    from experiments.papers.results import in_order
    from experiments.papers.tables import lines_of
    from experiments.report.power import power_sheet
    from experiments.runner.completion import survey

    for grid in _grids(asked):
        lines = lines_of(grid, survey(in_order([grid]), place_of(asked).runs))
        print(power_sheet(lines, f"Seeds for {grid.title}", asked.width).markdown())
    return 0


def _list(asked: argparse.Namespace) -> int:
    from experiments.report.listing import runs_sheet

    print(runs_sheet(asked.folder).markdown(), end="")
    return 0


def _replay(asked: argparse.Namespace) -> int:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from experiments.papers.replay import replay, rows_of

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for column in ("defense", "rule", "precision", "recall", "FPR", "AUC", "rounds", "seconds"):
        table.add_column(column, justify="left" if column in ("defense", "rule") else "right", no_wrap=True)
    for row in rows_of([replay(asked.directory, defense, dict(asked.extra)) for defense in asked.defense]):
        table.add_row(*row)
    console = Console()
    console.width = max(console.width, 100)
    console.print(table)
    return 0


def _users(asked: argparse.Namespace) -> int:
    from experiments.papers.paired_users import users_sheet

    print(users_sheet(*asked.directories).markdown(), end="")
    return 0


def _groups(asked: argparse.Namespace) -> int:
    from experiments.papers.groups import groups_sheet

    print(groups_sheet(asked.directory).markdown(), end="")
    return 0


def _report(asked: argparse.Namespace) -> int:
    from experiments.report.report import write_report

    print(f"Written: {write_report(asked.directories, asked.output)}")
    return 0


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 < hours < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of hours above 0.")
    return hours


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _as_interrupt)
    sys.exit(main())
