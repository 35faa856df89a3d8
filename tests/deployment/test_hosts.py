"""Several hosts: a SuperLink and two nodes, each in a network namespace with an address of its own, over TLS."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data import load
from deploy.certificates import make_certificates
from deploy.federation import Federation, Place, supernode_command
from deploy.processes import Processes, wait_until

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0
ONLINE = "SuperNode ID"
HOSTS = {"superlink": "10.77.0.1", "node-a": "10.77.0.2", "node-b": "10.77.0.3"}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def namespaces() -> Iterator[dict[str, str]]:
    """Three namespaces on one bridge, which has one of its own, so that nothing here is touched."""
    tag = secrets.token_hex(3)
    names = {host: f"rf-{tag}-{host}" for host in HOSTS}
    switch = f"rf-{tag}-switch"
    made: list[str] = []
    try:
        try:
            for name in [switch, *names.values()]:
                ip("netns", "add", name)
                made.append(name)
            ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", switch, "link", "set", "bridge", "up")
            for port, (host, name) in enumerate(names.items()):
                ip("-n", switch, "link", "add", f"port{port}", "type", "veth", "peer", "eth0", "netns", name)
                ip("-n", switch, "link", "set", f"port{port}", "master", "bridge", "up")
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "address", "add", f"{HOSTS[host]}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or str(error)
            pytest.skip(f"network namespaces are not permitted here: {said.strip()}")
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def write_inter(path: Path, users: np.ndarray) -> Path:
    interactions = load("synthetic")
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in users.tolist():
        for place in range(interactions.splits[user], interactions.splits[user + 1]):
            item = interactions.item_ids[interactions.items[place]]
            lines.append(f"{interactions.user_ids[user]}\t{item}\t{interactions.times[place]}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_nodes_on_other_hosts_train_on_data_of_their_own(namespaces: dict[str, str], tmp_path: Path) -> None:
    make_certificates(tmp_path / "keys", [HOSTS["superlink"]], ["node-a", "node-b"])
    address = HOSTS["superlink"]
    place = Place(tmp_path, tmp_path / "keys", "127.0.0.1:9091", f"{address}:9092", "127.0.0.1:9093")
    inside = {host: ["ip", "netns", "exec", name] for host, name in namespaces.items()}
    with Processes(tmp_path / "logs") as processes:
        federation = Federation(place, processes, prefix=inside["superlink"])
        federation.start_superlink()
        for host, users in (("node-a", np.arange(0, 40)), ("node-b", np.arange(40, 70))):
            config = {
                "data": str(write_inter(tmp_path / f"{host}.inter", users)),
                "role": "benign",
                "state-dir": str(tmp_path / "state" / host),
                "data-dir": str(tmp_path / "cache" / host),
            }
            processes.start(host, [*inside[host], *supernode_command(place, host, config)], federation.environment)
        for host in ("node-a", "node-b"):
            wait_until(lambda host=host: ONLINE in processes.log(host), PATIENCE, f"{host} is let in")
        options = {"dataset": "synthetic", "num-server-rounds": 2, "eval-every": 2, "clients-per-round": 60}
        options |= {"min-nodes": 2, "output-dir": str(tmp_path / "runs"), "run-name": "run"}
        done = subprocess.run(
            federation.run_command(PROJECT, options),
            env=federation.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        path = tmp_path / "runs" / "run" / "summary.json"
        assert path.exists(), done.stdout + done.stderr
        assert json.loads(path.read_text())["status"] == "completed"
        rounds = [json.loads(line) for line in (tmp_path / "runs" / "run" / "rounds.jsonl").read_text().splitlines()]
        # 60 of 70 users cannot all be one node's.
        assert [line["updates"] for line in rounds] == [60, 60]
        reached = subprocess.run(
            [*inside["node-a"], "bash", "-c", f"exec 3<>/dev/tcp/{address}/9093"], capture_output=True, check=False
        )
        assert reached.returncode != 0, "the Control API answers on its own host alone"
    wait_until(lambda: not any(map(pids, namespaces.values())), 30, "Nothing runs on any host")


def pids(name: str) -> list[str]:
    return subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True).stdout.split()
