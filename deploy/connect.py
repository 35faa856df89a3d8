"""Run a command of Flower's with a connection of its own: ``python -m deploy.connect ADDRESS CA -- flwr run …``.

Writes the connection ``federation`` into ``$FLWR_HOME/config.toml``, beside those that are there, and becomes the
command.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flwr.cli.flower_config import write_superlink_connection
from flwr.cli.typing import SuperLinkConnection

from deploy.federation import CONNECTION
from deploy.startup import without_proxy


def main(arguments: list[str] | None = None) -> None:
    """``python -m deploy.connect``."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) < 4 or given[2] != "--":
        sys.exit("Usage: python -m deploy.connect HOST:PORT CA_CERTIFICATE -- COMMAND …")
    address, certificate, command = given[0], Path(given[1]), given[3:]
    write_superlink_connection(SuperLinkConnection(CONNECTION, address, str(certificate.absolute())))
    os.environ.update(without_proxy(os.environ))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
