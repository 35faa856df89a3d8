"""``robust-fedrec doctor``: what a run needs of this environment, whether it is there, and what to do."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from deploy import environment
from settings.paths import absolute

CONTROL_PORT = "39093"
"""Where the local SuperLink of ``flwr run`` listens, unless FLWR_LOCAL_CONTROL_API_PORT says otherwise."""

Finding = tuple[bool, str]
"""Whether all is well, and a sentence."""


def main(arguments: list[str] | None = None) -> int:
    """Print every finding; returns 1 where something has to be done."""
    parser = argparse.ArgumentParser(
        prog="robust-fedrec doctor", description="Check what a run needs of this environment, and say what to do."
    )
    about = "write the variables that Flower, gRPC and Ray need into this Python environment, as make setup does"
    parser.add_argument("--fix", action="store_true", help=about)
    if parser.parse_args(arguments).fix:
        environment.main()
        # Python reads what was written when it starts.
        return subprocess.run([sys.executable, "-m", "robust_fedrec", "doctor"], check=False).returncode
    found = [_version("flwr", "1.34."), _version("ray", ""), *_variables(), _proxy(), _memory(), _writable(), _port()]
    for well, text in [*found, _gpu()]:
        print(f"{'ok  ' if well else 'LOOK'}  {text}")
    return 0 if all(well for well, _ in found) else 1


def _version(package: str, expected: str) -> Finding:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False, f"{package} is not installed: install robust-fedrec into an environment of its own (make setup)."
    if not version.startswith(expected):
        return False, f"{package} {version}: expected {expected}x, the last with gRPC everywhere; install that one."
    return True, f"{package} {version} on Python {sys.version.split()[0]}"


def _variables() -> list[Finding]:
    expected = {"GRPC_ENABLE_FORK_SUPPORT": "0", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}
    return [
        (True, f"{name}={value}")
        if os.environ.get(name) == value
        else (False, f"{name} is not {value}: robust-fedrec doctor --fix sets it for good.")
        for name, value in expected.items()
    ]


def _proxy() -> Finding:
    proxies = [name for name in ("grpc_proxy", "http_proxy", "https_proxy") if os.environ.get(name)]
    if proxies and not any("127.0.0.1" in os.environ.get(name, "") for name in ("no_grpc_proxy", "no_proxy")):
        return False, f"{proxies[0]} is set: set no_proxy=localhost,127.0.0.1,::1 too, else gRPC asks the proxy."
    return True, "no proxy stands between the processes of this machine"


def _memory() -> Finding:
    place = Path("/dev/shm")
    if not place.is_dir():
        return True, "no /dev/shm here: Ray keeps its objects in temporary files"
    free = shutil.disk_usage(place).free / 2**20
    if free < 512:
        return False, f"/dev/shm has {free:.0f} MiB: start a container with --shm-size=2g, or use engine=local."
    return True, f"/dev/shm has {free:.0f} MiB for Ray"


def _writable() -> Finding:
    place = absolute("output-dir", "~/robust-fedrec/runs")
    existing = next(path for path in (place, *place.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return False, f"{existing} cannot be written: name another folder by output-dir=/an/absolute/path."
    return True, f"results can be written to {place}"


def _port() -> Finding:
    port = os.environ.get("FLWR_LOCAL_CONTROL_API_PORT", CONTROL_PORT)
    if not port.isdigit() or not 0 < int(port) < 65536:
        return False, f"FLWR_LOCAL_CONTROL_API_PORT={port}: expected a number from 1 to 65535."
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", int(port))):
            return True, f"port {port} is free for the local SuperLink"
    return True, (
        f"something listens on port {port}, probably the local SuperLink of an earlier flwr run, which keeps the "
        "environment that it was started with: end it, or set another FLWR_LOCAL_CONTROL_API_PORT, after a change"
    )


def _gpu() -> Finding:
    import torch

    return True, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: runs use the CPU"
