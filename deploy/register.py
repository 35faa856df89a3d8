"""Make the nodes of an allow-list known to a SuperLink: ``python -m deploy.register CONNECTION``.

Flower 1.34 keeps who may connect in the SuperLink itself and takes it from ``flwr supernode register``, one
public key at a time. A key that is registered already stays so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.certificates import KEYS
from deploy.startup import without_proxy

ALREADY = "already in use"
"""What the SuperLink answers for a key that it knows."""

UNAVAILABLE, TRIES = "Connection to the SuperLink is unavailable", 10
"""What ``flwr`` says where nobody answers: a SuperLink listens before it does."""


def register(
    allowed: Path, connection: str, environment: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
) -> int:
    """Register every key of the allow-list; how many there are.

    ``connection`` is a name in ``$FLWR_HOME/config.toml``; ``prefix`` comes before each command. Raises
    ``RuntimeError`` with what ``flwr`` said where one is refused.
    """
    lines = [line for line in allowed.read_text().splitlines() if line.strip() and not line.startswith("#")]
    variables = os.environ if environment is None else environment
    direct = {**variables, **without_proxy(variables)}
    flwr = Path(sys.executable).with_name("flwr")
    with tempfile.TemporaryDirectory() as folder:
        for index, line in enumerate(lines):
            key = Path(folder) / f"{index}.pub"
            key.write_text(f"{line}\n")
            command = [*prefix, str(flwr), "supernode", "register", str(key), connection]
            for _ in range(TRIES):
                done = subprocess.run(command, env=direct, capture_output=True, text=True, check=False)
                said = done.stdout + done.stderr
                if UNAVAILABLE not in said:
                    break
                time.sleep(1)
            if done.returncode and ALREADY not in said:
                raise RuntimeError(f"The key {line.split()[-1]!r} could not be registered: {said.strip()}")
    return len(lines)


def main(arguments: list[str] | None = None) -> None:
    """``python -m deploy.register``."""
    parser = argparse.ArgumentParser(prog="robust-fedrec deploy register", description="Let nodes in.")
    parser.add_argument("connection", help="a connection of $FLWR_HOME/config.toml")
    parser.add_argument("--allowed", type=Path, default=KEYS / "allowed-nodes", help="public keys, one a line")
    chosen = parser.parse_args(arguments)
    try:
        print(f"{register(chosen.allowed, chosen.connection)} nodes may connect.")
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
