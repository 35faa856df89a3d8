"""A run over a Ray cluster that was there before it: two Ray nodes with a core each, and an actor on each of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from server.simulation import simulate

OPTIONS = {
    "num-server-rounds": 4,
    "eval-every": 2,
    "clients-per-round": 30,
    "attack": "cluster",
    "malicious-fraction": 0.05,
    "defense": "union+norm-bound",
    "run-name": "run",
    "tracker": "none",
    "num-nodes": 2,
}

PROGRAM = """
import json, sys, ray
from server.simulation import simulate
simulate(json.loads(sys.argv[1]))
nodes = [node for node in ray.nodes() if node["Alive"]]
print("cluster", len(nodes), sum(node["Resources"]["CPU"] for node in nodes))
"""

START = 120.0


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of two Ray nodes on this machine, each with a core."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    # Ray's sockets have long names in this folder, and a socket's name has at most 107 letters.
    with tempfile.TemporaryDirectory(prefix="rfr", ignore_cleanup_errors=True) as folder:
        head = ["--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false", f"--temp-dir={folder}"]
        started: list[subprocess.Popen[bytes]] = []
        try:
            for place in (head, [f"--address={address}"]):
                started.append(ray_start(place))
                wait_for_nodes(address, len(started))
            yield address
        finally:
            for process in started[::-1]:
                os.killpg(process.pid, signal.SIGTERM)
            for process in started:
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)


def ray_start(place: list[str]) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "ray"), "start", *place, "--block", "--num-cpus=1"]
    return subprocess.Popen(
        [*command, "--object-store-memory=100000000"],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def environment() -> dict[str, str]:
    return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def wait_for_nodes(address: str, count: int) -> None:
    program = (
        f"import ray; ray.init({address!r}, log_to_driver=False); "
        f"raise SystemExit(sum(node['Alive'] for node in ray.nodes()) < {count})"
    )
    deadline = time.monotonic() + START
    while subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True).returncode:
        assert time.monotonic() < deadline, f"Ray at {address} has not {count} nodes after {START:.0f} s."
        time.sleep(0.5)


def test_a_run_over_two_ray_nodes_gives_what_one_process_gives(cluster: str, tmp_path: Path) -> None:
    here, _ = simulate({**OPTIONS, "engine": "local", "output-dir": str(tmp_path / "local")})
    # A node takes a whole core, of which each Ray node has one: so there is one on each.
    there = {"engine": "ray", "ray-address": cluster, "cpus-per-node": 1.0, "output-dir": str(tmp_path / "ray")}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps({**OPTIONS, **there})],
        env={**environment(), "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert "cluster 2 2.0" in found.stdout
    models = [load_file(directory / "model.safetensors") for directory in (here, tmp_path / "ray" / "run")]
    assert models[0]["items"].equal(models[1]["items"])
