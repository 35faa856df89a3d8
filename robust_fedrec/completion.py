"""``robust-fedrec completion SHELL``: lines for the shell's start-up file, which then completes the commands."""

from __future__ import annotations

import argparse


def main(arguments: list[str] | None = None) -> int:
    """Print what bash or zsh evaluates."""
    from robust_fedrec.command import COMMANDS

    parser = argparse.ArgumentParser(prog="robust-fedrec completion", description="Print a completion for the shell.")
    parser.add_argument("shell", choices=("bash", "zsh"))
    first = "autoload -U +X bashcompinit && bashcompinit\n" if parser.parse_args(arguments).shell == "zsh" else ""
    words = dict.fromkeys(word for name in COMMANDS for word in name.split())
    print(f"{first}complete -o default -W '{' '.join(words)}' robust-fedrec")
    return 0
