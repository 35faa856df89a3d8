"""Who may join the Ray of a run: its own processes, and nobody who does not know the token."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from deploy.processes import free_ports
from server.grids import engine, ray_access
from server.simulation import PROJECT
from settings.options import OptionError

OPTIONS = {
    "engine": "ray",
    "num-nodes": 2,
    "num-server-rounds": 2,
    "eval-every": 2,
    "clients-per-round": 20,
    "embedding-dim": 8,
    "tracker": "none",
    "run-name": "run",
}

RUN = """
import json, os, sys
# An environment that ``make setup`` has not written into.
for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "GRPC_ENABLE_FORK_SUPPORT"):
    os.environ.pop(name, None)
from server.simulation import simulate
summary = simulate(json.loads(sys.argv[1]))[1]
import ray
seen = ray.get(ray.remote(num_cpus=0)(lambda: os.environ.get("RAY_AUTH_TOKEN")).remote())
about = [summary["status"], ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], seen]
print(json.dumps(about), flush=True)
sys.stdin.read()
"""

STRANGER = """
import logging, os, sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
except ConnectionError as error:
    sys.exit(f"refused: {error}")
print("ran as process", ray.get(ray.remote(num_cpus=0)(lambda: os.getpid()).remote()))
"""


@dataclass(frozen=True)
class Running:
    """A run whose Ray still runs: how it ended, where its Ray listens, its token, and what its workers have of it."""

    status: str
    address: str
    token: str
    workers_token: str


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("run")
    # An address that somebody left behind must not matter: this run has a Ray of its own.
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HOME": str(folder), "RAY_ADDRESS": "127.0.0.1:9"}
    command = [sys.executable, "-c", RUN, json.dumps({**OPTIONS, "output-dir": str(folder)})]
    with (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = next((line for line in process.stdout if line.startswith("[")), "")
            assert said, (folder / "errors").read_text()[-3000:]
            yield Running(*json.loads(said))
        finally:
            process.stdin.close()
            process.wait(60)


def join(address: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Another process of this user's that wants to run code over this Ray."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", STRANGER, address],
        env={**others, "RAY_py_gcs_connect_timeout_s": "2", **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_run_works_and_its_workers_have_its_token(running: Running) -> None:
    assert running.status == "completed"
    assert len(running.token) == 64
    assert running.workers_token == running.token


def test_a_run_of_its_own_does_not_join_what_an_address_was_left_of(running: Running) -> None:
    assert not running.address.endswith(":9")


def test_nobody_joins_a_run_s_ray_without_its_token(running: Running) -> None:
    """Through the host's own address, not the loopback's, where it has one: Ray listens on all."""
    for variables in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        stranger = join(running.address, **variables)
        assert stranger.returncode != 0, stranger.stdout
        assert "refused" in stranger.stderr
        assert "ran as" not in stranger.stdout
    known = join(running.address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=running.token)
    assert "ran as process" in known.stdout, known.stderr


def test_a_running_ray_is_asked_whether_it_wants_a_token(running: Running) -> None:
    assert ray_access.asks_for_token(running.address) is True


@contextmanager
def open_ray() -> Iterator[str]:
    """Answers as the GCS of a Ray without a token does."""

    class Alive(grpc.GenericRpcHandler):
        def service(self, call: grpc.HandlerCallDetails) -> Any:
            if call.method == "/ray.rpc.NodeInfoGcsService/CheckAlive":
                return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
            return None

    server = grpc.server(ThreadPoolExecutor(1), [Alive()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


def test_an_address_where_no_ray_answers_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_access, "_connected", lambda: False)
    (port,) = free_ports(1)
    with pytest.raises(OptionError, match=f"ray-address = .*ray start --head.* no Ray answers at 127.0.0.1:{port}"):
        ray_access.start_ray(f"127.0.0.1:{port}")
    monkeypatch.setattr(ray_access, "ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert ray_access.asks_for_token(f"127.0.0.1:{silent.getsockname()[1]}") is None


def test_auto_without_a_ray_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_access, "_connected", lambda: False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(OptionError, match=r"ray-address = 'auto': expected the address of a Ray that runs .*here"):
        ray_access.start_ray("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("192.0.2.7:6379\n")
    assert ray_access.running_ray() == "192.0.2.7:6379"
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.9:1")
    assert ray_access.running_ray() == "192.0.2.9:1"


def test_a_ray_without_a_token_is_joined_as_such_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that asks for a token and a Ray that has none wait for each other."""
    with open_ray() as address:
        assert ray_access.asks_for_token(address) is False
        monkeypatch.setattr(ray_access, "is_closed", lambda: True)
        with pytest.raises(OptionError, match=r"asks for no token\. Set RAY_AUTH_MODE=disabled before Ray starts"):
            ray_access.require_access(address, "ray-address", address)
        monkeypatch.setattr(ray_access, "is_closed", lambda: False)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.delitem(sys.modules, "ray", raising=False)
        ray_access.require_access(address, "ray-address", address)
        assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_a_ray_that_lets_everybody_in_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_access, "is_closed", lambda: False)
    ray_access.warn_of_strangers()
    assert "RAY_AUTH_MODE=token" in caplog.text
    assert "RAY_AUTH_TOKEN_PATH" in caplog.text


def test_what_flwr_run_lacks_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
    monkeypatch.setattr(ray_access, "is_closed", lambda: True)
    ray_access.warn_of_flowers_ray()
    assert not caplog.records
    monkeypatch.delenv("GRPC_ENABLE_FORK_SUPPORT")
    monkeypatch.setattr(ray_access, "is_closed", lambda: False)
    ray_access.warn_of_flowers_ray()
    assert "GRPC_ENABLE_FORK_SUPPORT=0" in caplog.text
    assert "RAY_AUTH_MODE=token" in caplog.text


def test_a_dead_address_under_flwr_run_is_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Flower's ray.init waits for it in silence."""
    (port,) = free_ports(1)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(OptionError, match=f"RAY_ADDRESS = .*no Ray answers at 127.0.0.1:{port}"):
        engine._await_flowers_ray("")
    assert "flwr stop" in caplog.text
