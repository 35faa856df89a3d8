"""One federation on this machine: a SuperLink and its SuperNodes as processes of their own, over TLS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.processes import Processes, free_ports, wait_until
from deploy.register import register
from deploy.startup import without_proxy
from protocol.transport import HTTP

CONNECTION = "federation"
START = 120.0
"""Seconds within which a SuperLink listens, on a machine that has other things to do."""

TomlScalar = bool | int | float | str


@dataclass(frozen=True)
class Place:
    """Where a federation lives: its folder, its keys, and the three addresses of its SuperLink."""

    folder: Path
    keys: Path
    runtime: str
    fleet: str
    control: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def certificate(self) -> Path:
        """The CA's, which nodes and users check the SuperLink's against."""
        return self.keys / "ca.crt"


def local_place(folder: Path, keys: Path, environment: Mapping[str, str] | None = None) -> Place:
    """On free ports of the loopback interface; nothing of it can be reached from another machine.

    Where Flower speaks HTTP all APIs of a SuperLink share one port.
    """
    ports = free_ports(1) * 3 if HTTP else free_ports(3)
    runtime, fleet, control = (f"127.0.0.1:{port}" for port in ports)
    return Place(folder, keys, runtime, fleet, control, environment or {})


def process_environment(place: Place) -> dict[str, str]:
    """What every process of the federation gets: this interpreter's programs, and a Flower home of its own."""
    here = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **without_proxy(os.environ),
        "PATH": here + os.pathsep + os.environ.get("PATH", ""),
        "FLWR_HOME": str(place.folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        # Several nodes share this machine's cores.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        **place.environment,
    }


def superlink_command(place: Place) -> list[str]:
    """The SuperLink with TLS and node authentication on."""
    keys = place.keys
    return [
        "flower-superlink",
        *("--ssl-ca-certfile", str(keys / "ca.crt")),
        *("--ssl-certfile", str(keys / "server.pem")),
        *("--ssl-keyfile", str(keys / "server.key")),
        "--enable-supernode-auth",
        *("--database", str(place.folder / "superlink.db")),
        *_superlink_addresses(place),
    ]


def supernode_command(place: Place, key: str, node_config: Mapping[str, TomlScalar]) -> list[str]:
    """A SuperNode that shows the key of this name and hosts what its configuration says."""
    return [
        "flower-supernode",
        *("--root-certificates", str(place.certificate)),
        *("--auth-supernode-private-key", str(place.keys / "nodes" / key)),
        *("--superlink", place.fleet),
        *supernode_address(),
        *("--node-config", as_toml(node_config)),
    ]


def supernode_address() -> list[str]:
    """Where a SuperNode listens for its own ClientApp processes: on a free port of the loopback interface."""
    if HTTP:
        return ["--host", "127.0.0.1", "--port", str(free_ports(1)[0])]
    return ["--clientappio-api-address", "127.0.0.1:0"]


def _superlink_addresses(place: Place) -> list[str]:
    if HTTP:
        host, _, port = place.fleet.rpartition(":")
        return ["--host", host, "--port", port]
    return [
        *("--serverappio-api-address", place.runtime),
        *("--fleet-api-address", place.fleet),
        *("--control-api-address", place.control),
    ]


def as_toml(values: Mapping[str, TomlScalar]) -> str:
    """Options as Flower's ``--node-config`` and ``--run-config`` take them."""
    return " ".join(f"{name}={json.dumps(value)}" for name, value in values.items())


def write_connection(home: Path, address: str, certificate: Path) -> None:
    """Let ``flwr`` with this Flower home, which is the federation's own, find its Control API as ``CONNECTION``."""
    home.mkdir(parents=True, exist_ok=True)
    lines = ["[superlink]", f'default = "{CONNECTION}"', f"[superlink.{CONNECTION}]", f'address = "{address}"']
    lines.append(f"root-certificates = {json.dumps(str(certificate.absolute()))}")
    (home / "config.toml").write_text("\n".join(lines) + "\n")


class Federation:
    """The processes of one federation; ended with the context of ``processes``.

    ``prefix`` comes before the commands of the server's side: ``ip netns exec NAME`` starts them on another host.
    """

    def __init__(self, place: Place, processes: Processes, prefix: Sequence[str] = ()) -> None:
        self.place = place
        self.processes = processes
        self.environment = process_environment(place)
        self._prefix = list(prefix)

    def start_superlink(self, again: bool = False) -> None:
        """Start it, wait until it listens, and let the nodes of the allow-list in.

        ``again``: it ran before, and its database knows them. Raises ``RuntimeError`` with its last words where it
        ends instead.
        """
        write_connection(self.place.folder / "flwr", self.place.control, self.place.certificate)
        command = [*self._prefix, *superlink_command(self.place)]
        process = self.processes.start("superlink", command, self.environment)
        addresses = (self.place.fleet, self.place.control)
        wait_until(
            lambda: process.poll() is not None or all(map(self._listens, addresses)),
            START,
            f"The SuperLink listens on {' and '.join(addresses)}",
        )
        if process.poll() is not None:
            raise RuntimeError(f"The SuperLink has ended: {self.processes.log('superlink')[-2000:]}")
        if not again:
            register(self.place.keys / "allowed-nodes", CONNECTION, self.environment, self._prefix)

    def start_node(self, key: str, node_config: Mapping[str, TomlScalar], name: str = "") -> subprocess.Popen[bytes]:
        """Start a SuperNode; its log goes by ``name``, or the key's."""
        command = supernode_command(self.place, key, node_config)
        return self.processes.start(name or key, command, self.environment)

    def run_command(self, app: Path, options: Mapping[str, TomlScalar]) -> list[str]:
        """Submit a run and stream what its ServerApp logs."""
        flwr = str(Path(sys.executable).with_name("flwr"))
        return [*self._prefix, flwr, "run", str(app), CONNECTION, "--stream", "--run-config", as_toml(options)]

    def _listens(self, address: str) -> bool:
        host, _, port = address.rpartition(":")
        program = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
        command = [*self._prefix, sys.executable, "-c", program, host, port]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
