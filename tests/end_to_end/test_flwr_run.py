"""The app as its users start it: ``flwr run`` on a local SuperLink, on Flower's own engine and on Ray actors."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from client.state.about import kept_states, opened
from deploy.environment import keep_token
from deploy.startup import variables
from server.simulation import simulate

PROJECT = Path(__file__).resolve().parents[2]
OPTIONS = {
    "num-server-rounds": 3,
    "eval-every": 3,
    "clients-per-round": 30,
    "attack": "cluster",
    "malicious-fraction": 0.05,
    "defense": "union+multi-krum",
    "seed": 1,
}
IMAGES = {
    "model": "lenet",
    "dataset": "synthetic-images",
    "num-clients": 8,
    "clients-per-round": 5,
    "local-epochs": 1,
    "num-server-rounds": 2,
    "eval-every": 2,
    "attack": "deep-poisoning",
    "malicious-fraction": 0.3,
    "defense": "norm-bound",
}


class Flower:
    """A local SuperLink of its own, ended by process id."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.home = home
        self.environment = {
            **os.environ,
            "FLWR_HOME": str(home / "flwr"),
            "FLWR_LOCAL_CONTROL_API_PORT": str(port),
            "FLWR_TELEMETRY_ENABLED": "0",
            **variables(str(keep_token(home / "ray-token"))),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, options: dict) -> str:
        """What ``flwr run`` prints. From a neutral folder, so that no worker sees another copy of the app."""
        text = " ".join(f"{name}={json.dumps(value)}" for name, value in options.items())
        command = ["flwr", "run", str(PROJECT), "--stream", "--run-config", text]
        command += ["--federation-config", "num-supernodes=2 client-resources-num-cpus=1"]
        done = subprocess.run(command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=300)
        return done.stdout + done.stderr

    def last_status(self) -> str:
        """The status of the newest run, as Flower tells it."""
        command = ["flwr", "ls", "--limit", "1", "--format", "json"]
        done = subprocess.run(command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=60)
        return json.loads(done.stdout)["runs"][0]["status"]

    def stop(self) -> None:
        mine = f"FLWR_HOME={self.home / 'flwr'}".encode()
        for signum in (signal.SIGTERM, signal.SIGKILL):
            for path in Path("/proc").glob("[0-9]*/environ"):
                try:
                    if mine in path.read_bytes().split(b"\0"):
                        os.kill(int(path.parent.name), signum)
                except OSError:
                    continue
            time.sleep(2)


@pytest.fixture(scope="module")
def flower(tmp_path_factory):
    if not Path("/proc").is_dir():
        pytest.skip("the test ends Flower's processes by what /proc says of them")
    flower = Flower(tmp_path_factory.mktemp("flower"))
    yield flower
    flower.stop()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    options = {**OPTIONS, "engine": "local", "num-nodes": 2, "output-dir": str(tmp_path_factory.mktemp("local"))}
    return results(simulate(options)[0])


def results(directory: Path):
    metrics = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return load_file(directory / "model.safetensors")["items"], [(line["valid"], line["test"]) for line in metrics]


@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_flwr_run_gives_the_same_model_to_the_bit(engine: str, flower, expected, tmp_path) -> None:
    printed = flower.run({**OPTIONS, "engine": engine, "output-dir": str(tmp_path)})
    directory = next((path.parent for path in tmp_path.glob("*/summary.json")), None)
    assert directory is not None, printed
    assert str(directory) in printed
    items, metrics = results(directory)
    assert torch.equal(items, expected[0])
    assert metrics == expected[1]
    written = json.loads((directory / "config.json").read_text())
    assert written["options"]["defense"] == "union+multi-krum"


def kept(folder: Path):
    """What the nodes keep in a folder: private vectors with Adam's moments and last rounds, and the attack's state."""
    found = []
    for path in kept_states(folder):
        store = opened(path)
        with store.begin():
            users = store.kept_users()
            values, last = store.vectors(users, store.dim() or 0)
            found.append((path.name, users.tolist(), last.tolist(), values.tobytes(), store.attack()))
    return found


def test_a_run_on_flowers_engine_that_is_resumed_is_the_run_that_was_not(flower, tmp_path) -> None:
    """Two actors: whichever is idle answers for any of the two nodes, before the resume and after it."""
    options = {**OPTIONS, "eval-every": 8, "checkpoint-every": 3, "run-name": "run"}
    whole = {"num-server-rounds": 8, "output-dir": str(tmp_path / "local"), "state-dir": str(tmp_path / "local-state")}
    alone, _ = simulate({**options, **whole, "engine": "local", "num-nodes": 2})
    here = {"engine": "flower", "output-dir": str(tmp_path / "flower"), "state-dir": str(tmp_path / "flower-state")}
    printed = flower.run({**options, **here, "num-server-rounds": 7})
    directory = tmp_path / "flower" / "run"
    # From before the last rounds, which the nodes must undo.
    checkpoint = directory / "checkpoints" / "round-000000003.safetensors"
    assert checkpoint.exists(), printed
    printed += flower.run({**options, **here, "num-server-rounds": 8, "resume": str(checkpoint)})
    assert json.loads((directory / "summary.json").read_text())["rounds"] == 8, printed
    assert torch.equal(results(directory)[0], results(alone)[0])
    states = kept(tmp_path / "flower-state")
    assert states == kept(tmp_path / "local-state")
    assert any(state[-1] for state in states)


@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_image_classifiers_too(engine: str, flower, tmp_path) -> None:
    alone, _ = simulate({**IMAGES, "engine": "local", "num-nodes": 2, "output-dir": str(tmp_path / "local")})
    printed = flower.run({**IMAGES, "engine": engine, "output-dir": str(tmp_path / "flower")})
    directory = next((path.parent for path in tmp_path.glob("flower/*/summary.json")), None)
    assert directory is not None, printed
    assert torch.equal(*(load_file(run / "model.safetensors")["shared"] for run in (alone, directory)))
    assert results(alone)[1] == results(directory)[1]


def test_a_wrong_option_ends_the_run_with_a_sentence(flower, tmp_path) -> None:
    printed = flower.run({"attack": "clutser", "output-dir": str(tmp_path)})
    assert "attack = 'clutser': expected one of none" in printed.replace("\n", " ")
    assert "Traceback" not in printed
    assert "failed" in flower.last_status()
    assert not list(tmp_path.iterdir())
