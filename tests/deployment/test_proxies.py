"""Where a proxy is set, what is on this machine is reached without it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deploy.federation import local_place, process_environment
from deploy.health import serving
from deploy.register import register
from server.simulation import PROJECT

VARIABLES = ("no_proxy", "NO_PROXY", "no_grpc_proxy")
NOBODY = "http://127.0.0.1:1"

CLIENT = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    print(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10).status)
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a gRPC server answers on this machine, as a SuperLink does."""
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture(autouse=True)
def behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody answers at."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, NOBODY)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def ask(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_process_of_a_local_federation_asks_no_proxy(address: str, tmp_path: Path) -> None:
    bare = f"import os\nfor name in {VARIABLES}: os.environ.pop(name, None)\n"
    environment = process_environment(local_place(tmp_path, tmp_path))
    assert ask([sys.executable, "-c", bare + CLIENT, address], environment).returncode != 0, (
        "gRPC asks a proxy otherwise"
    )
    asked = ask([sys.executable, "-c", CLIENT, address], environment)
    assert asked.stdout == "1\n", asked.stderr


def test_a_command_with_a_connection_of_its_own_asks_no_proxy(address: str, tmp_path: Path) -> None:
    client = ["--", sys.executable, "-c", CLIENT, address]
    command = [sys.executable, "-m", "deploy.connect", address, "ca.crt", *client]
    asked = ask(command, {**os.environ, "FLWR_HOME": str(tmp_path)})
    assert asked.stdout.endswith("1\n"), asked.stderr


def test_a_health_check_asks_no_proxy(address: str) -> None:
    assert serving(address)


def test_who_registers_nodes_asks_no_proxy(tmp_path: Path) -> None:
    allowed, said = tmp_path / "allowed", tmp_path / "said"
    allowed.write_text("ssh-ecdsa AAAA benign-0\n")
    program = f"import os; open({str(said)!r}, 'w').write(os.environ['no_proxy'])"
    own = {**os.environ, "no_proxy": "a.example"}
    assert register(allowed, "federation", own, [sys.executable, "-c", program]) == 1
    assert said.read_text() == "a.example,localhost,127.0.0.1,::1"
