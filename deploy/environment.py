"""Writes what every process of a Python environment must know into that environment.

``make setup`` calls this once. Python reads the line when it starts, before Flower, gRPC or Ray are imported; a
SuperLink that ``flwr run`` starts, and whatever that SuperLink starts, then have it too. What the user has set stays.
"""

from __future__ import annotations

import os
import secrets
import sys
import sysconfig
from pathlib import Path

LINE_FILE = "robust_fedrec_environment.pth"
TOKEN_FILE = "robust-fedrec-ray-token"


def main() -> None:
    """``python -m deploy.environment``: the token, and the line, in the environment of this Python."""
    token = keep_token(Path(sys.prefix) / TOKEN_FILE)
    line = Path(sysconfig.get_path("purelib")) / LINE_FILE
    line.write_text(startup_line(token) + "\n", encoding="utf-8")


def variables(token: Path) -> dict[str, str]:
    """What processes of a run need, by name.

    Flower installs an app's dependencies anew at every run unless it is told not to. gRPC's fork handlers kill about
    one in ten of the processes that Ray starts from a process with gRPC threads. Ray lets in whoever reaches its ports
    unless it is given a token.
    """
    return {
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }


def startup_line(token: Path) -> str:
    """The line of Python that sets them."""
    return f"import os; [os.environ.setdefault(name, value) for name, value in {variables(token)!r}.items()]"


def keep_token(path: Path) -> Path:
    """Write a random token that its owner alone can read; one that is there stays. The path again."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path


if __name__ == "__main__":
    main()
