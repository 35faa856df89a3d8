"""The command ``robust-fedrec``: the project's programs by name, from any folder."""

from __future__ import annotations

import importlib
import os
import sys

from robust_fedrec import put_project_first

COMMANDS = {
    "run": ("robust_fedrec.run", "train once, in simulation: robust-fedrec run dataset=ml-1m attack=cluster"),
    "list": ("robust_fedrec.listing", "the names of attacks, defenses, models, datasets or options"),
    "report": ("experiments.__main__", "one HTML page about a run, or comparing several"),
    "experiments": ("experiments.__main__", "the demo, the papers' tables and figures, a grid of your own, a replay"),
    "data": ("data.__main__", "prepare a data set and print its card"),
    "recommend": ("client.recommend", "recommend to a user of this node, without a server"),
    "deploy local": ("deploy.local", "a whole federation on this machine, for one run"),
    "deploy certificates": ("deploy.certificates", "make a federation's keys and certificates"),
    "deploy register": ("deploy.register", "let nodes in by their keys"),
    "doctor": ("robust_fedrec.doctor", "check this environment, and say what to do"),
    "completion": ("robust_fedrec.completion", 'let the shell complete: eval "$(robust-fedrec completion bash)"'),
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
    words = 2 if given[0] == "deploy" else 1
    name, rest = " ".join(given[:words]), given[words:]
    if name not in COMMANDS:
        print(f"{name!r} is no command of robust-fedrec.\n\n{_help()}", file=sys.stderr)
        return 2
    put_project_first()
    module = importlib.import_module(COMMANDS[name][0])
    try:
        status = module.main([name, *rest] if name in WITH_NAME else rest)
        sys.stdout.flush()
    except BrokenPipeError:
        return reader_left()
    return int(status or 0)


def reader_left() -> int:
    """What a program does whose output nobody reads any more (``… | head``): it ends, with this exit status."""
    # Python flushes once more when it exits, which must not fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(["usage: robust-fedrec COMMAND …", "", *lines, "", "robust-fedrec COMMAND --help says more."])
