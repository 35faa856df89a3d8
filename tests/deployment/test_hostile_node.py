"""A federation of real processes in which a registered node sends what it likes: the honest users' model is unharmed.

``make hostile-node`` runs 200 rounds of it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from hostile_client import LIES, install
from safetensors.torch import load_file

from client import answers
from deploy.certificates import make_certificates
from deploy.federation import Federation, TomlScalar, local_place, supernode_command
from deploy.processes import Processes
from server.config import server_config
from server.grids.local_grid import LocalGrid
from server.simulation import default_options
from server.training import run_training

PROJECT = Path(__file__).resolve().parents[2]
ROUNDS = int(os.environ.get("ROBUST_FEDREC_HOSTILE_ROUNDS", "6"))
OFFENCES = ROUNDS - 2
"""Rounds in which the node lies before it is not asked any more."""

NODES = ["honest-0", "hostile", "honest-1"]
OPTIONS: dict[str, TomlScalar] = {
    "dataset": "synthetic",
    "num-server-rounds": ROUNDS,
    "eval-every": ROUNDS,
    "clients-per-round": 40,
    "embedding-dim": 8,
    "defense": "norm-bound",
    "malicious-fraction": 0.0,
    "quarantine-after": OFFENCES,
    "tracker": "none",
    "seed": 5,
}


@dataclass(frozen=True)
class Run:
    """A run that is over."""

    directory: Path
    said: str

    @property
    def rounds(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "rounds.jsonl").read_text().splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "summary.json").read_text())
        return found


def node_config(name: str, state: Path) -> dict[str, TomlScalar]:
    place = {"role": "benign", "partition-id": NODES.index(name), "num-partitions": len(NODES)}
    return {**place, "state-dir": str(state / name)}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("hostile")
    make_certificates(folder / "keys", nodes=NODES)
    install(folder / "programs")
    with Processes(folder / "logs") as processes:
        federation = Federation(local_place(folder, folder / "keys"), processes)
        federation.start_superlink()
        for name in NODES:
            environment = dict(federation.environment)
            if name == "hostile":
                environment["PATH"] = f"{folder / 'programs'}{os.pathsep}{environment['PATH']}"
            command = supernode_command(federation.place, name, node_config(name, folder / "state"))
            processes.start(name, command, environment)
        command = federation.run_command(PROJECT, {**OPTIONS, "output-dir": str(folder / "runs"), "run-name": "run"})
        done = subprocess.run(command, env=federation.environment, capture_output=True, text=True, check=False)
        yield Run(folder / "runs" / "run", done.stdout + done.stderr + processes.log("hostile"))


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run in this process, in which the hostile node has no updates to give."""
    folder = tmp_path_factory.mktemp("without")
    run_config = {**default_options(), **OPTIONS}

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == NODES.index("hostile"):
            raise RuntimeError("this node gives nothing")
        return answers.answer(message, context)

    run_id = abs(hash(folder)) % (1 << 62)
    grid = LocalGrid(app, run_config, len(NODES), "", run_id)  # type: ignore[arg-type]
    for place, name in enumerate(NODES, 1):
        config = node_config(name, folder / "state")
        grid._contexts[place] = Context(run_id, place, config, RecordDict(), run_config)  # type: ignore[arg-type]
    run = folder / "runs" / "run"
    run.mkdir(parents=True)
    run_training(grid, server_config(run_config), run)
    return Run(run, "")


def test_the_model_is_the_one_without_the_hostile_nodes_users(attacked: Run, without: Run) -> None:
    assert attacked.summary["status"] == "completed", attacked.said
    models = [load_file(run.directory / "model.safetensors")["items"] for run in (attacked, without)]
    assert (models[0] - models[1]).abs().max() <= 1e-6
    assert [line["updates"] for line in attacked.rounds] == [line["updates"] for line in without.rounds]
    assert min(line["updates"] for line in attacked.rounds) > 0


def test_the_node_offends_in_every_round_and_is_then_not_asked_again(attacked: Run) -> None:
    lines = attacked.rounds
    assert len(lines) == ROUNDS
    for line in lines[:OFFENCES]:
        assert line["asked"] > line["updates"]
        assert line["rejected"] or len(line["failed_nodes"]) == 1, line
    # The line of the round that was one offence too many names the node; later ones have nothing new.
    assert [len(line["quarantined"]) for line in lines] == [0] * (OFFENCES - 1) + [1] + [0] * (ROUNDS - OFFENCES)
    assert list(attacked.summary["quarantined"].values()) == [OFFENCES]
    # Who is not asked is not counted as asked.
    assert all(line["asked"] == line["updates"] for line in lines[OFFENCES:])
    assert not any(line["rejected"] or line["failed_nodes"] for line in lines[OFFENCES:])


def test_no_round_is_skipped(attacked: Run) -> None:
    assert attacked.summary["skipped_rounds"] == 0
    assert attacked.summary["rounds"] == ROUNDS


def test_a_long_run_sends_every_kind_of_lie() -> None:
    """As many as there are need 20 rounds; the first few are those of the short form."""
    assert len({id(lie) for lie in LIES}) == len(LIES) < 200
