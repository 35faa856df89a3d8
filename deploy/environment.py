"""Writes what every process of a Python environment must know into that environment.

``make setup`` calls this once. Python runs what is written when it starts, before Flower, gRPC or Ray are imported; a
SuperLink that ``flwr run`` starts, and whatever that SuperLink starts, then have it too. What the user has set stays.
"""

from __future__ import annotations

import os
import secrets
import sys
import sysconfig
from pathlib import Path

from deploy import startup

MODULE = "robust_fedrec_environment"
TOKEN_FILE = "robust-fedrec-ray-token"


def main() -> None:
    """``python -m deploy.environment``: the token, and what Python runs at its start, into this environment."""
    write_startup(Path(sysconfig.get_path("purelib")), keep_token(Path(sys.prefix) / TOKEN_FILE))


def write_startup(packages: Path, token: Path) -> None:
    """Let each Python with this folder of packages set the variables of ``deploy.startup``."""
    (packages / f"{MODULE}.py").write_text(Path(startup.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    line = f"import {MODULE}; {MODULE}.set_variables({str(token)!r})\n"
    (packages / f"{MODULE}.pth").write_text(line, encoding="utf-8")


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
