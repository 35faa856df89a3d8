"""docker-compose.yml as a user starts it, on a container engine: ``make test-containers``.

Speaks to the engine through the client ``docker`` and ``docker compose`` (or ``docker-compose``); podman answers both
through its socket, which ``DOCKER_HOST`` names.
The tests stand in the order in which one federation lives through them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from deploy.certificates import make_certificates, make_node_key
from deploy.federation import TomlScalar, as_toml
from deploy.processes import free_ports, wait_until
from deploy.services import node_services
from server.simulation import simulate

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 900.0
NODES = ("benign-0", "benign-1", "benign-2", "attacker-0")
SERVICES = ("superlink", "superexec", *NODES)
OPTIONS: dict[str, TomlScalar] = {
    "dataset": "synthetic",
    "num-server-rounds": 10,
    "eval-every": 10,
    "checkpoint-every": 2,
    "clients-per-round": 50,
    "attack": "cluster",
    "malicious-fraction": 0.05,
    "defense": "union+norm-bound",
    "seed": 7,
}
CONNECT = """
import socket, sys
for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
        print(address)
    except OSError:
        pass
"""
"""Prints those of its addresses that can be reached."""


@functools.cache
def missing() -> str:
    """What these tests lack here."""
    if "ROBUST_FEDREC_CONTAINERS" not in os.environ:
        return "minutes, and a container engine: make test-containers"
    if shutil.which("docker") is None:
        return "there is no client docker here"
    if not compose():
        return "there is neither docker compose nor docker-compose here"
    done = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return f"no container engine answers: {done.stderr.strip()}" if done.returncode else ""


@functools.cache
def compose() -> tuple[str, ...]:
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            return command
    return ()


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def docker(*arguments: str, check: bool = True) -> str:
    """What the engine's client says to both of its outputs."""
    done = subprocess.run(
        ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert not check or not done.returncode, f"docker {arguments}: {done.stdout}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Project:
    """One Compose project: the file of the repository, its variables, and the folder that has the keys."""

    name: str
    folder: Path
    variables: dict[str, str]
    more: tuple[str, ...] = ()

    def command(self, *arguments: str) -> list[str]:
        files = ["-f", str(PROJECT / "docker-compose.yml"), *(part for file in self.more for part in ("-f", file))]
        return [*compose(), "-p", self.name, *files, "--project-directory", str(self.folder), *arguments]

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            self.command(*arguments),
            env={**os.environ, **self.variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not done.returncode, f"{arguments}: {done.stdout}"
        return done.stdout

    def submit(self, name: str, **options: TomlScalar) -> subprocess.Popen[bytes]:
        run = {**os.environ, **self.variables, "RUN_CONFIG": as_toml({**OPTIONS, "run-name": name, **options})}
        with (self.folder / f"{name}.log").open("ab") as log:
            command = self.command("run", "-T", "--rm", "submit")
            return subprocess.Popen(command, env=run, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def container(self, service: str) -> str:
        label = f"label=com.docker.compose.project={self.name}"
        found = docker("ps", "-aq", "--filter", label, "--filter", f"label=com.docker.compose.service={service}")
        assert found, service
        return found.splitlines()[0]

    def inspect(self, service: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", self.container(service)))
        return found[0]

    def inside(self, service: str, *command: str, check: bool = True) -> str:
        return docker("exec", self.container(service), *command, check=check)

    def kill(self, service: str) -> None:
        """As a crash does it: who kills a container through the engine keeps it from being started again."""
        self.inside(service, "sh", "-c", "kill -9 -1", check=False)

    def back(self, service: str) -> bool:
        """Whether the engine has started it again, and it is well."""
        about = self.inspect(service)
        return about["RestartCount"] > 0 and about["State"]["Health"]["Status"] == "healthy"

    def log(self, service: str) -> str:
        return docker("logs", self.container(service))

    def lines(self, run: str) -> list[dict[str, Any]]:
        path = self.folder / "runs" / run / "rounds.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def completed(self, run: str) -> bool:
        path = self.folder / "runs" / run / "summary.json"
        return path.exists() and json.loads(path.read_text())["status"] == "completed"

    def said(self, run: str) -> str:
        return (self.folder / f"{run}.log").read_text()

    def model(self, run: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "runs" / run / "model.safetensors")

    def down(self) -> None:
        # podman removes no container whose network another one shares.
        self.compose("rm", "--force", "--stop", "register", "submit")
        self.compose("down", "--volumes")

    def left(self) -> dict[str, str]:
        """What the engine has of the project, by kind."""
        label = ("--filter", f"label=com.docker.compose.project={self.name}")
        containers = docker("ps", "-aq", *label)
        return {
            kind: said
            for kind, said in (
                ("containers", containers),
                ("networks", docker("network", "ls", "-q", *label)),
                ("volumes", docker("volume", "ls", "-q", *label)),
            )
            if said
        }


def own_address() -> str:
    """This machine's address in its network: connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but that of its loopback interface")
        return str(probe.getsockname()[0])


def give(folder: Path, user: int) -> None:
    """To the user of the containers, where root runs the tests."""
    if os.getuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, user, user)


def files_in_layers(image: str) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file of every layer, also of those that a later layer removes or covers."""
    with (
        subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving,
        tarfile.open(fileobj=saving.stdout, mode="r|") as whole,
    ):
        for part in whole:
            # A layer is an archive in the archive; what else is there is JSON.
            packed = whole.extractfile(part) if part.isfile() and not part.name.endswith(".json") else None
            if packed is None or part.size < tarfile.RECORDSIZE:
                continue
            with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=packed, mode="r|*") as layer:
                for member in layer:
                    if file := layer.extractfile(member) if member.isfile() else None:
                        yield member.name, file.read()


@pytest.fixture(scope="module")
def image() -> str:
    """The image of ``IMAGE``, or one that is built here."""
    if name := os.environ.get("IMAGE"):
        return name
    subprocess.run([*compose(), "build", "superlink"], cwd=PROJECT, check=True)
    return "robust-fedrec"


@pytest.fixture(scope="module")
def project(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("compose")
    user = os.getuid() or 1000
    address = own_address()
    make_certificates(folder / "deploy" / "keys", [address], NODES)
    for name in ("data", "runs"):
        (folder / name).mkdir()
    give(folder, user)
    variables = {
        "IMAGE": image,
        "FEDREC_USER": f"{user}:{user}",
        "DATA": str(folder / "data"),
        "RUNS": str(folder / "runs"),
        "FLEET": f"{address}:{free_ports(1)[0]}",
    }
    project = Project(f"fedrec-{secrets.token_hex(3)}", folder, variables)
    try:
        project.compose("up", "--detach", "--no-build")
        yield project
    finally:
        project.down()


def test_the_image_holds_no_key_and_no_compiler(image: str) -> None:
    [about] = json.loads(docker("image", "inspect", image))
    assert about["Config"]["User"] == "1000:1000"
    assert about["Config"]["Labels"]["org.opencontainers.image.version"]
    # An engine may keep this to itself until there is a container.
    container = docker("create", image)
    try:
        assert json.loads(docker("inspect", container))[0]["Config"]["Healthcheck"]["Test"]
    finally:
        docker("rm", container)
    found = docker("run", "--rm", image, "sh", "-c", "command -v gcc cc g++ ld pip uv; test -s /sbom.json; umask")
    assert found == "0077"
    # Some packages bring example keys, which are nobody's secret.
    own = ("app", "etc", "home", "root", "tmp", "data", "runs", "state")
    checked = 0
    for path, content in files_in_layers(image):
        assert not path.endswith((".key", ".secret")), path
        if path.removeprefix("./").split("/")[0] in own:
            assert not re.search(b"BEGIN [A-Z ]*PRIVATE KEY", content), path
            checked += path.startswith("app/")
    assert checked > 100
    history = docker("history", "--no-trunc", image)
    assert "--extra-index-url" not in history, "an index's address may hold a password"


def test_every_service_is_healthy_and_confined(project: Project) -> None:
    for service in SERVICES:
        wait_until(
            lambda service=service: project.inspect(service)["State"]["Health"]["Status"] == "healthy",
            PATIENCE,
            f"{service} is healthy",
            pause=1.0,
        )
        status = dict(
            line.split(":\t", 1)
            for line in project.inside(service, "cat", "/proc/1/status").splitlines()
            if ":\t" in line
        )
        assert status["CapBnd"] == status["CapEff"] == "0" * 16
        assert status["NoNewPrivs"] == "1"
        assert status["Uid"].split()[0] != "0"
        assert project.inside(service, "sh", "-c", "touch /app/here && echo written || true").endswith("file system")
        assert project.inspect(service)["HostConfig"]["Memory"] > 0


def test_ten_rounds_give_the_model_of_the_ray_engine(project: Project, tmp_path: Path) -> None:
    assert project.submit("whole").wait() == 0, project.said("whole")
    assert project.completed("whole"), project.said("whole")
    options = {**OPTIONS, "engine": "ray", "num-nodes": len(NODES), "output-dir": str(tmp_path)}
    directory, _ = simulate(options)
    simulated = load_file(directory / "model.safetensors")
    for name, value in project.model("whole").items():
        assert (value - simulated[name]).abs().max() <= 1e-6 if value.numel() else not simulated[name].numel()
    assert [line["updates"] for line in project.lines("whole")] == [line["asked"] for line in project.lines("whole")]


def test_who_reaches_what(project: Project) -> None:
    """The nodes only the Fleet API, the ServerApps' container only the runtime API, by whatever address."""
    networks = project.inspect("superlink")["NetworkSettings"]["Networks"].values()
    hosts = ["superlink", *(network["IPAddress"] for network in networks)]
    ports = ("9090", "9091", "9093")
    addresses = [f"{host}:{port}" for host in hosts for port in ports]
    for node in ("benign-0", "attacker-0"):
        assert project.inside(node, "python", "-c", CONNECT, *addresses, "superlink:9092") == "superlink:9092"
        ports_of_another = [f"{other}:{port}" for other in NODES if other != node for port in ("9090", "9094")]
        assert project.inside(node, "python", "-c", CONNECT, *ports_of_another) == ""
    reached = project.inside("superexec", "python", "-c", CONNECT, *addresses).splitlines()
    assert "superlink:9091" in reached
    assert not [address for address in reached if not address.endswith(":9091")]
    for host in [*hosts[1:], own_address(), "127.0.0.1"]:
        with pytest.raises(OSError, match=r"refused|timed out|No route"):
            socket.create_connection((host, 9093), 5)


def test_each_container_holds_its_own_keys_and_state_alone_and_shows_no_key(project: Project) -> None:
    keys = project.folder / "deploy" / "keys"
    texts = [(keys / "superexec.secret").read_text().strip()]
    for path in (keys / "server.key", *(keys / "nodes" / node for node in NODES)):
        texts += [line for line in path.read_text().splitlines() if not line.startswith("-----")]
    for service in SERVICES:
        own = {"superlink": {"server.pem", "server.key", "superexec.secret"}, "superexec": {"superexec.secret"}}
        held = project.inside(service, "ls", "/run/secrets").split()
        assert set(held) == {"ca.crt", *own.get(service, {service})}
        shown = project.inside(service, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'")
        assert "PATH=" in shown
        shown += json.dumps(project.inspect(service))
        assert not [text for text in texts if text in shown], service
        volumes = {mount["Name"] for mount in project.inspect(service)["Mounts"] if mount["Type"] == "volume"}
        assert volumes == {f"{project.name}_{service}-state"}


def test_what_lies_on_the_volumes_is_their_users_alone(project: Project) -> None:
    for service in SERVICES:
        files = project.inside(service, "find", "/state", "-type", "f").splitlines()
        assert files, service
        assert service == "superlink" or any("/state/kernels-" in file for file in files), service
        assert project.inside(service, "find", "/state", "-type", "f", "-perm", "/077") == "", service
    assert project.inside("superexec", "find", "/runs", "-type", "f", "-perm", "/077") == ""
    assert "/state/superlink.db" in project.inside("superlink", "find", "/state")


def test_a_node_on_another_machine_is_let_in_once_its_key_is_registered(project: Project, image: str) -> None:
    """A Compose project of its own, on another network: it reaches the SuperLink by the machine's address."""
    keys = project.folder / "deploy" / "keys"
    make_node_key(keys / "nodes", "benign-3")
    give(keys, os.getuid() or 1000)
    override = project.folder / "benign-3.yml"
    made = node_services([3])
    # The engine's default network: podman lets nobody from one Compose network reach a published port of another one.
    del made["services"]["benign-3"]["networks"]
    made["services"]["benign-3"]["network_mode"] = "bridge"
    override.write_text(yaml.safe_dump(made))
    variables = {**project.variables, "SUPERLINK": project.variables["FLEET"]}
    other = Project(f"{project.name}-other", project.folder, variables, (str(override),))
    try:
        other.compose("up", "--detach", "--no-build", "--no-deps", "benign-3")
        wait_until(
            lambda: "Failed to activate SuperNode" in other.log("benign-3"), PATIENCE, "It is refused", pause=1.0
        )
        assert "SuperNode ID" not in other.log("benign-3")
        make_certificates(keys, nodes=[*NODES, "benign-3"])
        give(keys, os.getuid() or 1000)
        assert "5 nodes may connect" in project.compose("run", "-T", "--rm", "register")
        wait_until(lambda: "SuperNode ID" in other.log("benign-3"), PATIENCE, "It is let in", pause=1.0)
    finally:
        other.down()
    assert other.left() == {}


def test_a_killed_server_comes_back_and_its_run_is_resumed_on_its_volumes_to_the_same_model(project: Project) -> None:
    client = project.submit("killed")
    wait_until(lambda: len(project.lines("killed")) >= 3, PATIENCE, "Round 4 begins", pause=0.3)
    for service in ("superexec", "superlink"):
        project.kill(service)
    client.wait()
    for service in ("superlink", "superexec"):
        wait_until(lambda service=service: project.back(service), PATIENCE, f"{service} is started again", pause=1.0)
    assert not project.completed("killed")
    assert project.submit("killed", resume="latest").wait() == 0, project.said("killed")
    assert project.completed("killed"), project.said("killed")
    one, other = project.model("killed"), project.model("whole")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_survives_a_killed_node_and_a_killed_superlink_by_itself(project: Project) -> None:
    """A round may miss what was on its way at that moment; a later one has every node's answer again."""
    client = project.submit("survives", **{"num-server-rounds": 60, "eval-every": 60})

    def whole_again(after: int) -> bool:
        lines = project.lines("survives")[after:]
        return bool(lines) and lines[-1]["updates"] == lines[-1]["asked"]

    def failed() -> list[int]:
        return [line["round"] for line in project.lines("survives") if line["failed_nodes"]]

    wait_until(lambda: project.lines("survives"), PATIENCE, "Round 2 begins", pause=0.3)
    project.kill("benign-0")
    wait_until(failed, PATIENCE, "A round misses it", pause=1.0)
    wait_until(lambda: whole_again(failed()[-1]), PATIENCE, "It takes part again", pause=1.0)
    assert project.inspect("benign-0")["RestartCount"] >= 1
    restarts = project.inspect("superlink")["RestartCount"]
    project.kill("superlink")
    wait_until(
        lambda: project.inspect("superlink")["RestartCount"] > restarts, PATIENCE, "It is started again", pause=1.0
    )
    # The round that was under way, and the next.
    rounds = len(project.lines("survives")) + 1
    wait_until(lambda: whole_again(rounds), PATIENCE, "The run goes on", pause=1.0)
    project.kill("superexec")
    client.terminate()
    client.wait()


def test_everything_comes_down_and_leaves_nothing(project: Project) -> None:
    assert set(project.left()) == {"containers", "networks", "volumes"}
    project.down()
    assert project.left() == {}
