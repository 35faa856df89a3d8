"""One federation of real processes on loopback, over TLS and with node authentication, and what it must refuse."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from deploy.certificates import make_certificates, make_node_key
from deploy.federation import Federation, TomlScalar, local_place, supernode_address, supernode_command
from deploy.processes import Processes, free_ports, wait_until
from protocol.transport import HTTP
from server.simulation import simulate

PROJECT = Path(__file__).resolve().parents[2]
DATA = os.environ.get("ROBUST_FEDREC_DATA", "")
ONLINE = "SuperNode ID"
"""What a SuperNode logs once the SuperLink has let it in."""

PATIENCE = 300.0

pytestmark = pytest.mark.skipif(
    not (Path(DATA) / "ml-1m").is_dir(), reason="ROBUST_FEDREC_DATA does not name a folder with ML-1M"
)

ON_GRPC = pytest.mark.skipif(HTTP, reason="this release of Flower speaks HTTP/1.1 between SuperLink and SuperNode")

OPTIONS: dict[str, TomlScalar] = {
    "dataset": "ml-1m",
    "data-dir": DATA,
    "num-server-rounds": 5,
    "eval-every": 5,
    "clients-per-round": 50,
    "attack": "cluster",
    "malicious-fraction": 0.05,
    "defense": "union+norm-bound",
    "seed": 7,
}
BENIGN = 3


@dataclass
class Finished:
    """A federation whose run is over: what each process logged, and where things are."""

    federation: Federation
    streamed: str
    run: Path
    outsiders: dict[str, subprocess.Popen[bytes]]

    def log(self, name: str) -> str:
        return self.federation.processes.log(name)

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "summary.json").read_text())
        return found


def node_options(role: str, index: int, count: int, state: Path) -> dict[str, TomlScalar]:
    return {"role": role, "partition-id": index, "num-partitions": count, "state-dir": str(state)}


def start_outsiders(federation: Federation, folder: Path) -> dict[str, subprocess.Popen[bytes]]:
    """Three SuperNodes that must not get in: an unknown key, no TLS, and a CA that did not sign the SuperLink's."""
    place, processes, environment = federation.place, federation.processes, federation.environment
    make_node_key(place.keys / "nodes", "unregistered")
    config = node_options("benign", 0, BENIGN, folder / "outsider")
    commands = {name: supernode_command(place, "unregistered", config) for name in ("unregistered", "wrong-ca")}
    make_certificates(folder / "other-keys")
    at = commands["wrong-ca"].index("--root-certificates") + 1
    commands["wrong-ca"][at] = str(folder / "other-keys" / "ca.crt")
    commands["no-tls"] = [
        *("flower-supernode", "--insecure", "--superlink", place.fleet),
        *supernode_address(),
        *("--node-config", commands["wrong-ca"][-1]),
    ]
    return {name: processes.start(name, command, environment) for name, command in commands.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("federation")
    keys, nodes = folder / "keys", [*(f"benign-{index}" for index in range(BENIGN)), "attacker-0", "second-claim"]
    make_certificates(keys, nodes=nodes)
    with Processes(folder / "logs") as processes:
        federation = Federation(local_place(folder, keys), processes)
        federation.start_superlink()
        for index in range(BENIGN):
            federation.start_node(f"benign-{index}", node_options("benign", index, BENIGN, folder / f"state-{index}"))
        federation.start_node("attacker-0", node_options("attacker", 0, 1, folder / "state-attacker"))
        # The same part as benign-1: a registered key, but users that another node has.
        federation.start_node("second-claim", node_options("benign", 1, BENIGN, folder / "state-second"))
        outsiders = start_outsiders(federation, folder)
        for name in nodes:
            wait_until(lambda name=name: ONLINE in processes.log(name), PATIENCE, f"{name} is let in")
        command = federation.run_command(PROJECT, {**OPTIONS, "output-dir": str(folder / "runs"), "run-name": "run"})
        done = subprocess.run(
            command, env=federation.environment, capture_output=True, text=True, timeout=900, check=False
        )
        yield Finished(federation, done.stdout + done.stderr, folder / "runs" / "run", outsiders)
        groups = [process.pid for process in processes.running.values()]
    wait_until(lambda: not members(groups), 20, "Every process of the federation has ended")


def test_the_run_completes_and_streams(finished: Finished) -> None:
    assert (finished.run / "summary.json").exists(), finished.streamed
    assert finished.summary["status"] == "completed"
    assert finished.summary["rounds"] == OPTIONS["num-server-rounds"]
    assert f"Results: {finished.run}" in finished.streamed


def test_model_and_metrics_are_those_of_the_ray_engine(finished: Finished, tmp_path: Path) -> None:
    options = {**OPTIONS, "engine": "ray", "num-nodes": BENIGN + 1, "output-dir": str(tmp_path)}
    directory, summary = simulate(options)
    deployed, simulated = (load_file(run / "model.safetensors")["items"] for run in (finished.run, directory))
    assert (deployed - simulated).abs().max() <= 1e-6
    assert finished.summary["test"] == pytest.approx(summary["test"], abs=1e-9)
    assert finished.summary["valid"] == pytest.approx(summary["valid"], abs=1e-9)
    assert set(finished.summary["detection"]) == set(summary["detection"])
    for rule, measures in summary["detection"].items():
        assert finished.summary["detection"][rule] == pytest.approx(measures, abs=1e-9)


def test_the_attacker_attacks_and_is_seen(finished: Finished) -> None:
    rounds = [json.loads(line) for line in (finished.run / "rounds.jsonl").read_text().splitlines()]
    assert all(line["updates"] == line["asked"] == OPTIONS["clients-per-round"] for line in rounds)
    assert any(line["malicious"] for line in rounds)
    assert any(line["attack"] for line in rounds)


@pytest.mark.parametrize("name", ["unregistered", "no-tls", "wrong-ca"])
def test_outsiders_stay_outside(finished: Finished, name: str) -> None:
    log = finished.log(name)
    assert "Starting Flower SuperNode" in log
    assert ONLINE not in log
    assert "Receiving" not in log


def test_an_unregistered_node_is_told_so(finished: Finished) -> None:
    assert finished.outsiders["unregistered"].poll() not in (None, 0)
    assert "Failed to activate SuperNode" in finished.log("unregistered")


def test_a_second_claim_on_users_is_refused_with_a_message(finished: Finished) -> None:
    refusals = [line for line in finished.streamed.splitlines() if "is refused" in line]
    assert len(refusals) == 1, finished.streamed
    assert "it claims user" in refusals[0]
    assert "hosts already" in refusals[0]
    assert "partition-id" in refusals[0]


@ON_GRPC
def test_the_superlink_speaks_http2_in_tls(finished: Finished) -> None:
    place = finished.federation.place
    for address in (place.fleet, place.control):
        host, _, port = address.rpartition(":")
        context = ssl.create_default_context(cafile=str(place.certificate))
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection((host, int(port)), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=host) as channel,
        ):
            assert channel.selected_alpn_protocol() == "h2"
            channel.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            frame = channel.recv(9)
        settings = 4
        assert frame[3] == settings, "RFC 9113: a server's first frame is SETTINGS"
    assert "Fleet API (gRPC-rere)" in finished.log("superlink")


@ON_GRPC
def test_a_supernode_opens_with_the_preface_of_http2(finished: Finished) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        command = ["flower-supernode", "--insecure", "--superlink", address]
        command += supernode_address()
        processes = finished.federation.processes
        processes.start("preface", command, finished.federation.environment)
        channel, _ = server.accept()
        with channel:
            channel.settimeout(PATIENCE)
            assert channel.recv(24, socket.MSG_WAITALL) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        processes.stop("preface")


def test_private_vectors_stay_on_the_nodes(finished: Finished) -> None:
    """Each node keeps its own users' vectors on its own disk, and can recommend from them without the server."""
    from client.recommend import recommend
    from client.state.about import kept_states, kept_users, opened, read_about

    state = finished.run.parents[1] / "state-1"
    states = [*kept_states(state), *kept_states(finished.run.parents[1] / "state-second")]
    asked = [path for path in states if read_about(opened(path)) is not None]
    assert len(asked) == 1, "of two claims one was refused, and never asked to train"
    user = str(kept_users(opened(asked[0])).ids[0])
    found = recommend(asked[0], finished.run / "model.safetensors", user, 10)
    assert len({one.item for one in found}) == 10


def test_ctrl_c_takes_a_local_deployment_down(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.local", "--nodes", "1", "--attackers", "0", "--folder", str(tmp_path)]
    with (tmp_path / "out").open("wb") as out:
        launcher = subprocess.Popen(command, cwd=PROJECT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        log = tmp_path / "logs" / "benign-0.log"
        wait_until(lambda: log.exists() and ONLINE in log.read_text(), PATIENCE, "The node is let in", pause=0.3)
        children = descendants(launcher.pid)
        assert len(children) >= 2
        launcher.send_signal(signal.SIGINT)
        # An impatient person, or make, which passes the signal on.
        time.sleep(0.5)
        launcher.send_signal(signal.SIGINT)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(120) == 130, (tmp_path / "out").read_text()
        time.sleep(0.2)
        assert not [child for child in children if alive(child)]
    finally:
        if launcher.poll() is None:
            launcher.kill()


def members(groups: list[int]) -> list[int]:
    """The living processes of these process groups."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if state != "Z" and int(group) in groups:
            found.append(int(path.parent.name))
    return found


def descendants(pid: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_free_ports_differ() -> None:
    assert len(set(free_ports(8))) == 8
