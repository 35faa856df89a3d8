"""What a deployed federation loses when its ServerApp, its SuperLink or its SuperNodes are killed: nothing.

Three small federations run at the same time, because most of their time is Flower's polling: one whose run
nobody disturbs, one that is killed twice, and one that goes on while a SuperNode is killed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from safetensors.torch import load_file

from client import answers
from client.state.about import kept_states, kept_users, opened
from deploy.certificates import make_certificates
from deploy.federation import Federation, TomlScalar, local_place, supernode_command
from deploy.processes import Processes, descendants, wait_until
from server.config import server_config
from server.grids.local_grid import LocalGrid
from server.simulation import default_options
from server.training import run_training

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0
NODES = {"benign-0": "benign", "attacker-0": "attacker"}
DIM = 8
LET_IN = "SuperNode ID"
"""What a SuperNode says once the SuperLink has let it in."""

OPTIONS: dict[str, TomlScalar] = {
    "dataset": "synthetic",
    "num-server-rounds": 4,
    "eval-every": 4,
    "checkpoint-every": 2,
    "clients-per-round": 20,
    "embedding-dim": DIM,
    "attack": "cluster",
    "malicious-fraction": 0.1,
    "defense": "union+norm-bound",
    "tracker": "none",
    "seed": 11,
}

SHORT_LEASE = """
import sys
from flwr.client.grpc_rere_client import connection
from flwr.supercore import heartbeat
connection.HEARTBEAT_DEFAULT_INTERVAL = heartbeat.HEARTBEAT_DEFAULT_INTERVAL = 15
sys.argv[0] = "flower-supernode"
from flwr.supernode.cli import flower_supernode
flower_supernode()
"""
"""A SuperNode that is given up for dead after 30 s instead of 60: nothing else differs."""

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="who belongs to whom is read from /proc")


@dataclass(frozen=True)
class Story:
    """A federation's run when all is over: its directory, the nodes' states, and what was said."""

    run: Path
    states: dict[str, Path]
    streamed: str
    logs: dict[str, str]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Of a file of lines, without what depends on the clock."""
        found = [json.loads(line) for line in (self.run / name).read_text().splitlines()]
        return [{key: value for key, value in line.items() if "seconds" not in key} for line in found]

    def state(self, node: str) -> dict[str, Any]:
        """The private vectors with Adam's moments, the rounds of each user, and the attacker's state."""
        store = opened(self.states[node])
        with store.begin():
            users = store.kept_users()
            values, last = store.vectors(users, DIM)
            return {"users": users.tolist(), "rounds": last.tolist(), "vectors": values.tobytes(), "a": store.attack()}


class Stage:
    """One federation of two nodes while its processes run."""

    def __init__(self, folder: Path, keys: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes
        self.federation = Federation(local_place(folder, keys), processes)
        self.federation.start_superlink()
        self.streamed = ""

    def start_node(self, name: str, program: str = "") -> subprocess.Popen[bytes]:
        """``program``: what to start it with instead of ``flower-supernode``."""
        options: dict[str, TomlScalar] = {"role": NODES[name], "partition-id": 0, "num-partitions": 1}
        options["state-dir"] = str(self.folder / "state" / name)
        if not program:
            return self.federation.start_node(name, options)
        arguments = supernode_command(self.federation.place, name, options)[1:]
        return self.processes.start(name, [sys.executable, "-c", program, *arguments], self.federation.environment)

    def submit(self, **options: TomlScalar) -> subprocess.Popen[bytes]:
        chosen = {**OPTIONS, "output-dir": str(self.folder / "runs"), "run-name": "run", **options}
        command = self.federation.run_command(PROJECT, chosen)
        self.processes.running.pop("flwr", None)
        # From a neutral folder: relative paths must not matter.
        return self.processes.start("flwr", command, self.federation.environment, self.folder)

    def is_training(self, node: str, server_round: int) -> bool:
        """Whether the node, since it was last let in, has got the message of a round."""
        pattern = rf"ROUND {server_round}\][^\n]*\n[^\n]*Receiving: train message"
        return re.search(pattern, self.processes.log(node).rpartition(LET_IN)[2]) is not None

    def run_until(self, server_round: int, **options: TomlScalar) -> subprocess.Popen[bytes]:
        """Submit a run, and come back in the middle of a round."""
        client = self.submit(**options)
        wait_until(lambda: self.is_training("benign-0", server_round), PATIENCE, f"Round {server_round} begins")
        return client

    def revive(self, names: list[str]) -> None:
        """Start killed nodes as often as it takes until they are let in again, as their supervisor would."""
        before = {name: self.processes.log(name).count(LET_IN) for name in names}
        deadline = time.monotonic() + PATIENCE
        while waiting := [name for name in names if self.processes.log(name).count(LET_IN) == before[name]]:
            assert time.monotonic() < deadline, f"{waiting} are let in again"
            for name in waiting:
                process = self.processes.running.get(name)
                if process is None or process.poll() is not None:
                    self.processes.running.pop(name, None)
                    self.start_node(name)
            time.sleep(1)

    def finish(self, client: subprocess.Popen[bytes]) -> Story:
        client.wait(PATIENCE)
        run = self.folder / "runs" / "run"
        [name] = [path.name for path in run.parent.iterdir()]
        assert name == "run", "a resumed run has no other directory"
        states = {node: path for node in NODES for path in kept_states(self.folder / "state" / node)}
        names = ["flwr", "superlink", *NODES]
        return Story(run, states, self.processes.log("flwr"), {name: self.processes.log(name) for name in names})


def undisturbed(stage: Stage) -> Story:
    for name in NODES:
        stage.start_node(name)
    return stage.finish(stage.submit())


def all_killed(stage: Stage) -> Story:
    """First everything between two checkpoints, as where a machine dies; later the SuperLink alone under its run."""
    for name in NODES:
        stage.start_node(name, SHORT_LEASE)
    stage.run_until(4)
    for name in ["superlink", *NODES]:
        stage.processes.stop(name, at_once=True)
    stage.federation.start_superlink(again=True)
    # At once, while the SuperLink still believes that the nodes are there and does not let them in again.
    stage.submit(resume="latest")
    stage.revive(list(NODES))
    wait_until(lambda: stage.is_training("benign-0", 4), PATIENCE, "Round 4 begins again")

    kin = descendants(stage.processes.running["superlink"].pid)
    assert any(b"flwr-serverapp" in Path(f"/proc/{one.pid}/cmdline").read_bytes() for one in kin)
    superlink = stage.processes.running.pop("superlink")
    superlink.kill()
    superlink.wait()
    stage.federation.start_superlink(again=True)
    client = stage.submit(resume="latest")
    wait_until(lambda: not any(one.alive for one in kin), PATIENCE, "The old ServerApp and SuperExec end by themselves")
    return stage.finish(client)


def node_killed(stage: Stage) -> Story:
    """The benign node is killed while it has the message of round 2, and restarted until it is let in again."""
    stage.start_node("benign-0", SHORT_LEASE)
    stage.start_node("attacker-0")
    client = stage.run_until(2, **{"num-server-rounds": 6, "eval-every": 6, "round-timeout": 100.0})
    stage.processes.stop("benign-0", at_once=True)
    stage.revive(["benign-0"])
    return stage.finish(client)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Story]]:
    folder = tmp_path_factory.mktemp("recovery")
    make_certificates(folder / "keys", nodes=list(NODES))

    def played(plot: Callable[[Stage], Story]) -> Story:
        place = folder / plot.__name__
        with Processes(place / "logs") as processes:
            return plot(Stage(place, folder / "keys", processes))

    with ThreadPoolExecutor(3) as pool:
        futures = {plot.__name__: pool.submit(played, plot) for plot in (undisturbed, all_killed, node_killed)}
        yield {name: future.result() for name, future in futures.items()}
    mine = str(folder).encode()
    wait_until(lambda: not list(processes_with(mine)), 20, "Every process of the federations has ended")


def processes_with(text: bytes) -> Iterator[int]:
    """Processes whose environment has this text."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text in path.read_bytes():
                yield int(path.parent.name)
        except OSError:
            continue


def test_a_killed_federation_that_is_resumed_ends_to_the_bit_as_if_nothing_had_happened(
    stories: dict[str, Story],
) -> None:
    whole, killed = stories["undisturbed"], stories["all_killed"]
    assert json.loads((whole.run / "summary.json").read_text())["status"] == "completed", whole.streamed
    assert json.loads((killed.run / "summary.json").read_text())["status"] == "completed", killed.streamed
    # A ServerApp that its SuperLink leaves alone keeps what it has before it ends.
    assert json.loads((killed.run / "checkpoints" / "resumes.json").read_text()) == {"resumed_at": [2, 3]}
    assert_same_model(killed, whole)
    for name in ("metrics.jsonl", "rounds.jsonl"):
        assert killed.lines(name) == whole.lines(name)
    for node in NODES:
        assert killed.state(node) == whole.state(node)
    assert whole.state("attacker-0")["a"]


def assert_same_model(first: Story, second: Story) -> None:
    """To the bit."""
    one, other = (load_file(story.run / "model.safetensors") for story in (first, second))
    assert one.keys() == other.keys() == {"items", "shared"}
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_nodes_keep_their_ids(stories: dict[str, Story]) -> None:
    """Through their own deaths; and a SuperLink that is restarted alone they do not even notice."""
    for node in NODES:
        ids = re.findall(LET_IN + r": (\d+)", stories["all_killed"].logs[node])
        assert len(ids) == 2
        assert ids[0] == ids[1]


def test_the_run_goes_on_without_a_killed_node_and_asks_it_again(stories: dict[str, Story]) -> None:
    story = stories["node_killed"]
    assert json.loads((story.run / "summary.json").read_text())["status"] == "completed", story.streamed
    ids = re.findall(LET_IN + r": (\d+)", story.logs["benign-0"])
    assert len(ids) == 2
    assert ids[0] == ids[1]
    rounds = story.lines("rounds.jsonl")
    failed = [line["round"] for line in rounds if line["failed_nodes"]]
    assert failed
    assert failed[0] == 2
    assert failed == list(range(2, 2 + len(failed)))
    for line in rounds:
        assert set(line["failed_nodes"]) <= {ids[0]}
        # A node that is let in again in the moment in which its lease ends is not given up: the round waits for it.
        assert all(reason == "no answer" or reason.startswith("error 5") for reason in line["failed_nodes"].values())
        assert not line["rejected"]
    assert rounds[-1]["updates"] == rounds[-1]["asked"] == OPTIONS["clients-per-round"]


def test_each_round_of_a_killed_node_happened_wholly_or_not_at_all(stories: dict[str, Story], tmp_path: Path) -> None:
    """The oracle is the same federation in this process, whose benign node fails in the same rounds."""
    story = stories["node_killed"]
    state = story.states["benign-0"]
    store = opened(state)
    hosted = kept_users(store).users
    with store.begin():
        stepped = store.stepped()
    rounds = story.lines("rounds.jsonl")
    failed = {line["round"] for line in rounds if line["failed_nodes"]}
    for line in rounds:
        if line["round"] not in failed:
            assert sorted(stepped[line["round"]]) == sorted(np.intersect1d(line["users"], hosted))

    def app(message: Message, context: Context) -> Message:
        server_round = int(message.metadata.group_id)
        fails = context.node_id == 1 and message.metadata.message_type == "train" and server_round in failed
        reply = answers.answer(message, context) if not fails or server_round in stepped else None
        if fails or reply is None:
            raise RuntimeError("killed")
        return reply

    simulated = simulation(app, tmp_path, {"num-server-rounds": 6, "eval-every": 6})
    assert_same_model(simulated, story)
    for node in NODES:
        assert simulated.state(node) == story.state(node)
    for ours, theirs in zip(story.lines("metrics.jsonl"), simulated.lines("metrics.jsonl"), strict=True):
        assert ours["test"] == theirs["test"]


def simulation(app: Any, folder: Path, options: dict[str, Any]) -> Story:
    """The same nodes in this process."""
    run_config = {**default_options(), **OPTIONS, **options, "checkpoint-every": 1}
    # Nodes are remembered by their run: each simulation has its own.
    run_id = abs(hash(folder)) % (1 << 62)
    grid = LocalGrid(app, run_config, len(NODES), "", run_id)
    for place, (name, role) in enumerate(NODES.items(), 1):
        config = {"role": role, "partition-id": 0, "num-partitions": 1, "state-dir": str(folder / "state" / name)}
        grid._contexts[place] = Context(run_id, place, config, RecordDict(), run_config)
    run = folder / "runs" / "run"
    run.mkdir(parents=True)
    run_training(grid, server_config(run_config), run)
    states = {node: path for node in NODES for path in kept_states(folder / "state" / node)}
    return Story(run, states, "", {})


def test_the_simulation_that_is_compared_with_is_that_of_the_undisturbed_run(
    stories: dict[str, Story], tmp_path: Path
) -> None:
    whole, simulated = stories["undisturbed"], simulation(answers.answer, tmp_path, {})
    deployed, local = (load_file(story.run / "model.safetensors")["items"] for story in (whole, simulated))
    assert deployed.equal(local)
    for node in NODES:
        assert simulated.state(node) == whole.state(node)
