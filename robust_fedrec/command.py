"""The command ``robust-fedrec``: the project's programs by name, from any folder."""

from __future__ import annotations

import importlib
import os
import sys

from robust_fedrec import PROJECT

COMMANDS = {
    "experiments": ("experiments.__main__", "the demo, the papers' tables and figures, a run's page, a replay"),
    "data": ("data.__main__", "prepare a data set and print its card"),
    "recommend": ("client.recommend", "recommend to a user of this node, without a server"),
    "report": ("experiments.__main__", "one HTML page about a run, or comparing several"),
    "certificates": ("deploy.certificates", "make a federation's keys and certificates"),
    "deploy-local": ("deploy.local", "a whole federation on this machine, for one run"),
    "register": ("deploy.register", "let nodes in by their keys"),
}
"""Each command's module, whose ``main`` takes its arguments, and what it is for."""

WITH_NAME = ("report",)
"""Commands whose module knows them by name: their name is its first argument."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names with the others; returns its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(_help())
        return 0 if given else 2
    name, *rest = given
    if name not in COMMANDS:
        print(f"{name!r} is no command of robust-fedrec.\n\n{_help()}", file=sys.stderr)
        return 2
    _put_project_first()
    module = importlib.import_module(COMMANDS[name][0])
    status = module.main([name, *rest] if name in WITH_NAME else rest)
    return int(status or 0)


def _put_project_first() -> None:
    """Here, and in the processes that this one starts, which otherwise look in the current folder first."""
    project = str(PROJECT)
    sys.path[:] = [project, *(path for path in sys.path if path != project)]
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != project]
    os.environ["PYTHONPATH"] = os.pathsep.join([project, *others])
    os.environ["PYTHONSAFEPATH"] = "1"


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(["usage: robust-fedrec COMMAND …", "", *lines, "", "robust-fedrec COMMAND --help says more."])
