"""Containers without a container engine: their files fit each other, and every command runs as a process here."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from flwr.cli.app import app as flwr_app
from flwr.supercore.cli.flower_superexec import _parse_args
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode
from typer.main import get_command

from deploy.certificates import make_certificates
from deploy.health import serving
from deploy.processes import Processes, free_ports, wait_until
from deploy.services import main, node_services
from models.kernels.compiled import code_folder

PROJECT = Path(__file__).resolve().parents[2]
COMPOSE = PROJECT / "docker-compose.yml"
CONSTRAINTS = PROJECT / "constraints.txt"
DOCKERFILE = PROJECT / "deploy" / "Dockerfile"
PATIENCE = 120.0

Service = dict[str, Any]


def services(variables: dict[str, str] | None = None) -> dict[str, Service]:
    """The services with their variables put in, as Compose does it."""

    def value(match: re.Match[str]) -> str:
        return (variables or {}).get(match[1]) or match[2]

    text = re.sub(r"\$\{(\w+):-([^}]*)\}", value, COMPOSE.read_text())
    found: dict[str, Service] = yaml.safe_load(text)["services"]
    return found


def compose_client() -> list[str] | None:
    """The client, where there is one: it reads files without an engine."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                return command
    return None


@pytest.mark.skipif(compose_client() is None, reason="there is no docker compose here, neither plugin nor command")
def test_compose_accepts_the_file() -> None:
    client = compose_client()
    assert client is not None
    done = subprocess.run(
        [*client, "-f", str(COMPOSE), "--profile", "submit", "config"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    assert set(read) == set(services())
    for name, service in services().items():
        assert [str(part).replace("$$", "$") for part in read[name]["command"]] == service["command"]


def test_every_service_gives_away_little() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service["user"].startswith(("0", "root")), name
        assert "privileged" not in service, name
        if service.get("restart"):
            limits = service["deploy"]["resources"]["limits"]
            assert set(limits) == {"cpus", "memory"}, name
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_the_control_api_is_reached_from_its_own_container_alone() -> None:
    found = services()
    superlink = found["superlink"]
    assert "--control-api-address=127.0.0.1:9093" in superlink["command"]
    assert "--enable-supernode-auth" in superlink["command"]
    assert not any("9093" in port for port in superlink["ports"])
    for name in ("register", "submit"):
        assert found[name]["network_mode"] == "service:superlink"
    # The SuperExec's API listens by a name that the SuperLink has in no network of the nodes.
    assert "--serverappio-api-address=runtime-api:9091" in superlink["command"]
    assert superlink["networks"] == {"fleet": None, "runtime": {"aliases": ["runtime-api"]}}
    nodes = set(found["benign-0"]["networks"]) | set(found["attacker-0"]["networks"])
    assert nodes == {"fleet"}
    assert not any("--insecure" in part for service in found.values() for part in service["command"])


def test_secrets_volumes_and_networks_exist() -> None:
    whole = yaml.safe_load(COMPOSE.read_text())
    for name, service in services().items():
        used = {part for text in service["command"] for part in re.findall(r"/run/secrets/([\w.-]+)", text)}
        assert used == set(service.get("secrets", [])), name
        assert set(service.get("secrets", [])) <= set(whole["secrets"]), name
        assert set(service.get("networks", [])) <= set(whole["networks"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith((".", "/")) or source in whole["volumes"], f"{name}: {volume}"


def test_the_files_of_the_secrets_are_what_the_certificates_script_makes(tmp_path: Path) -> None:
    make_certificates(tmp_path, nodes=["benign-0", "benign-1", "benign-2", "attacker-0"])
    for secret in yaml.safe_load(COMPOSE.read_text())["secrets"].values():
        path = Path(secret["file"]).relative_to("deploy/keys")
        assert (tmp_path / path).is_file()


def copied() -> list[str]:
    """What the Dockerfile copies out of the project."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_every_path_that_the_dockerfile_copies_exists_and_reaches_the_builder() -> None:
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    # Builders go into no folder that is left out, unless an exception names it: "!folder/**/*.py" does not.
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert not any("**" in pattern for pattern in allowed)
    for source in copied():
        path = PROJECT / source
        assert path.exists(), source
        names = [Path(source)] if path.is_file() else [file.relative_to(PROJECT) for file in path.rglob("*.py")]
        assert names, source
        for name in names:
            assert source in allowed or any(name.match(pattern) for pattern in allowed), f"{name} is ignored"


def test_the_image_holds_every_package_of_the_app() -> None:
    app = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    packages = {pattern.partition("/")[0] for pattern in app["fab-include"]}
    assert packages <= set(copied())


def test_the_image_holds_every_dependency_of_the_app() -> None:
    """But for Ray, which only simulations use, and torch, which the Dockerfile names."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[^\w.-]", text)[0] for text in project["dependencies"]} - {"ray", "torch"}
    lines = (PROJECT / "deploy" / "requirements.txt").read_text().splitlines()
    assert needed <= {line.partition("==")[0] for line in lines}


def test_set_up_pins_every_dependency_by_hash_and_the_images_torch() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = [text for extra in ("dev", "results") for text in project["optional-dependencies"][extra]]
    needed = {re.split(r"[^\w.-]", text)[0] for text in [*project["dependencies"], *extras]} - {
        "robust-fedrec",
        "torch",
    }
    pins = re.findall(
        r"^([\w.-]+)==\S+(?: ;[^\n]*)? \\\n    --hash=sha256:\w{64}", CONSTRAINTS.read_text(), re.MULTILINE
    )
    assert needed <= set(pins)
    assert len(pins) == len(re.findall(r"^\w", CONSTRAINTS.read_text(), re.MULTILINE))
    torch = re.search(r"^TORCH := (.+)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert torch is not None
    assert torch[1] in DOCKERFILE.read_text()


def test_no_key_reaches_the_builder() -> None:
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert not any("keys" in line for line in lines if line.startswith("!"))


def test_the_image_is_pinned() -> None:
    lines = (PROJECT / "deploy" / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines if line and not line.startswith("#"))
    pinned = {line.partition("==")[0]: line.partition("==")[2] for line in lines if "==" in line}
    for line in CONSTRAINTS.read_text().splitlines():
        found = re.match(r"([\w.-]+)==([\w.]+)", line)
        if found and found[1] in pinned:
            assert pinned[found[1]] == found[2], f"{found[1]} is another version in constraints.txt"
    assert pinned["flwr"].startswith("1.34.")


@pytest.mark.skipif("ROBUST_FEDREC_SLOW" not in os.environ, reason="minutes: set ROBUST_FEDREC_SLOW to run it")
def test_the_images_requirements_install_into_a_clean_environment(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    torch = re.search(r"^ARG TORCH=(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert torch is not None
    command = [python, "-m", "pip", "install", "--quiet", "-r", PROJECT / "deploy" / "requirements.txt", torch[1]]
    subprocess.run(command, check=True)
    program = (
        "import client.answers, client.learners.recommender, models.recommenders.mf_recommender, server.app, "
        "deploy.connect, deploy.health, strategies"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([python, "-c", program], cwd=tmp_path, env=environment, check=True)


def folders_and_secrets(service: Service) -> set[str]:
    """What of a container is not its own: the sources of its volumes and its secrets."""
    return {volume.split(":")[0] for volume in service.get("volumes", [])} | set(service.get("secrets", []))


def test_each_node_has_its_own_key_and_its_own_state_and_nobody_else_s() -> None:
    whole = yaml.safe_load(COMPOSE.read_text())
    nodes = {name: service for name, service in services().items() if service["command"][0] == "flower-supernode"}
    assert set(nodes) == {"benign-0", "benign-1", "benign-2", "attacker-0"}
    for name, service in nodes.items():
        assert folders_and_secrets(service) == {"ca.crt", name, f"{name}-state", "data"}
        assert f"--auth-supernode-private-key=/run/secrets/{name}" in service["command"]
        assert whole["secrets"][name]["file"] == f"./deploy/keys/nodes/{name}"
        assert "replicas" not in service["deploy"]
        others = {f"{name}-state", name}
        assert not any(others & folders_and_secrets(other) for key, other in services().items() if key != name)


def test_every_service_that_computes_keeps_its_compiled_kernels() -> None:
    """Else each new container compiles for minutes: its own root cannot be written."""
    assert "NUMBA_CACHE_DIR=/state" in DOCKERFILE.read_text()
    for name in ("superexec", "benign-0", "benign-1", "benign-2", "attacker-0"):
        assert f"{name}-state:/state" in services()[name]["volumes"]


def test_more_nodes_are_like_those_of_the_file() -> None:
    whole = yaml.safe_load(COMPOSE.read_text())
    for role, numbers in (("benign", range(3)), ("attacker", range(1))):
        made = node_services(numbers, role)
        assert made["services"] == {name: whole["services"][name] for name in made["services"]}
        assert made["volumes"].items() <= whole["volumes"].items()
        assert made["secrets"].items() <= whole["secrets"].items()


def test_nodes_with_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--first", "3", "--nodes", "2", "--gpus", "0", "1"])
    made = yaml.safe_load(capsys.readouterr().out)
    assert list(made["services"]) == ["benign-3", "benign-4"]
    service = made["services"]["benign-4"]
    config = service["command"][-1]
    assert config.startswith('role="benign" partition-id=4 num-partitions=${PARTITIONS:-3} ')
    assert config.endswith('device="cuda"')
    for name, gpu in (("benign-3", "0"), ("benign-4", "1")):
        (device,) = made["services"][name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "device_ids": [gpu], "capabilities": ["gpu"]}
    assert folders_and_secrets(service) == {"ca.crt", "benign-4", "benign-4-state", "${DATA"}


class Containers:
    """The services as processes: the same arguments and environment, but for where folders and ports are here."""

    def __init__(self, folder: Path, processes: Processes, variables: dict[str, str]) -> None:
        self.folder = folder
        self.processes = processes
        self.services = services(variables)
        self._ports = dict(zip(("9091", "9092", "9093"), free_ports(3), strict=True))
        self._health = dict(zip(self.services, free_ports(len(self.services)), strict=True))
        make_certificates(folder / "keys", nodes=["benign-0", "attacker-0"])

    def here(self, text: str, name: str) -> str:
        """A container's path or address as it is on this machine."""
        for port, free in self._ports.items():
            text = re.sub(rf"(superlink|runtime-api|0\.0\.0\.0|127\.0\.0\.1):{port}\b", f"127.0.0.1:{free}", text)
        text = text.replace("127.0.0.1:9090", f"127.0.0.1:{self._health[name]}")
        places = {
            **{f"/run/secrets/{node}": self.folder / "keys" / "nodes" / node for node in ("benign-0", "attacker-0")},
            "/run/secrets": self.folder / "keys",
            "/state": self.folder / "state" / name,
            "/data": self.folder / "data",
            "/runs": self.folder / "runs",
            "/tmp/flwr": self.folder / "flwr" / name,
            "/app": PROJECT,
        }
        return re.sub("(?<![\\w.])(" + "|".join(places) + ')(?=[/"]|$)', lambda match: str(places[match[1]]), text)

    def environment(self, name: str) -> dict[str, str]:
        """The image's, as the Dockerfile sets it, and this interpreter's programs first on the path."""
        block = re.search(r"^ENV (PATH=(?:.*\\\n)*.*)$", DOCKERFILE.read_text(), re.MULTILINE)
        assert block is not None
        values = dict(part.split("=", 1) for part in block[1].replace("\\\n", " ").split())
        values["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        values["HOME"] = str(self.folder)
        found = {key: self.here(value, name) for key, value in values.items() if key != "PATH"}
        # A container keeps its compiled kernels on its volume. Compiling them for each service here would take minutes.
        folder = code_folder()
        assert folder is not None
        found |= {"NUMBA_CACHE_DIR": str(folder.parent), **self.services[name].get("environment", {})}
        return {**found, "PATH": values["PATH"], "TMPDIR": os.environ.get("TMPDIR", "/tmp")}

    def command(self, name: str) -> list[str]:
        return [self.here(part, name) for part in self.services[name]["command"]]

    def start(self, name: str) -> None:
        for folder in (self.folder / "state" / name, self.folder / "data", self.folder / "runs"):
            folder.mkdir(parents=True, exist_ok=True)
        self.processes.start(name, self.command(name), self.environment(name), self.folder)

    def health_check(self, name: str) -> list[str]:
        return [self.here(part, name) for part in self.services[name]["healthcheck"]["test"][1:]]

    def wait_until_healthy(self, name: str) -> None:
        """As Compose does before it starts what depends on it, but without a program for each look."""

        def healthy() -> bool:
            assert self.processes.running[name].poll() is None, self.processes.log(name)
            return serving(self.health_check(name)[-1])

        wait_until(healthy, PATIENCE, f"{name} is healthy")

    def healthy(self, name: str) -> bool:
        """What its health check says."""
        check = self.health_check(name)
        done = subprocess.run(check, env=self.environment(name), cwd=self.folder, capture_output=True, check=False)
        return done.returncode == 0

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        """A service that ends by itself."""
        return subprocess.run(
            self.command(name),
            env=self.environment(name),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    folder = tmp_path_factory.mktemp("containers")
    run = (
        'run-name="run" dataset="synthetic" num-server-rounds=1 eval-every=1 attack="cluster" '
        'malicious-fraction=0.05 defense="norm-bound"'
    )
    with Processes(folder / "logs") as processes:
        containers = Containers(folder, processes, {"PARTITIONS": "1", "RUN_CONFIG": run})
        containers.start("superlink")
        containers.wait_until_healthy("superlink")
        containers.start("superexec")
        registered = containers.run("register")
        assert registered.returncode == 0, registered.stderr
        for name in ("benign-0", "attacker-0"):
            containers.start(name)
        for name in ("superexec", "benign-0", "attacker-0"):
            containers.wait_until_healthy(name)
        yield containers


def test_a_run_goes_through_the_services_as_they_are_written_and_shows_which_has_ended(containers: Containers) -> None:
    submitted = containers.run("submit")
    path = containers.folder / "runs" / "run" / "summary.json"
    assert path.exists(), submitted.stdout + submitted.stderr
    assert json.loads(path.read_text())["status"] == "completed"
    assert any((containers.folder / "state" / "benign-0").iterdir())
    # A service that has ended is not healthy. No run could follow this one.
    assert containers.healthy("attacker-0")
    containers.processes.stop("attacker-0")
    assert not containers.healthy("attacker-0")


def test_registering_again_changes_nothing(containers: Containers) -> None:
    again = containers.run("register")
    assert again.returncode == 0, again.stderr
    assert "2 nodes may connect" in again.stdout


PARSERS = {
    "flower-superlink": _parse_args_run_superlink,
    "flower-supernode": _parse_args_run_supernode,
    "flower-superexec": _parse_args,
}


def test_every_command_is_one_that_the_programs_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of services that are not started here; ``register`` is."""
    monkeypatch.setattr(argparse.ArgumentParser, "exit", unexpected)
    for name, service in services().items():
        program, *arguments = service["command"]
        if name == "register":
            continue
        if name == "submit":
            program, *arguments = arguments[arguments.index("--") + 1 :]
            assert program == "flwr", name
            flwr = get_command(flwr_app)
            assert isinstance(flwr, click.Group)
            flwr.commands[arguments[0]].make_context(program, arguments[1:])
            continue
        PARSERS[program]().parse_args(arguments)


def unexpected(parser: argparse.ArgumentParser, status: int = 0, message: str | None = None) -> None:
    """What a parser does in place of ending the tests."""
    raise AssertionError(message)
