"""SASRec and NCF through the same rooms: every attack, every defense, every engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict
from what_runs_leave import assert_same, model_and_lines, nodes_state, run

import client.app
from attacks import ATTACKS
from client.state.about import kept_states, opened
from protocol.messages import model_record, query_content, read_own_reply, request_content
from protocol.requests import LossOptions, PopulationQuery, TrainRequest
from server.config import server_config
from server.grids.local_grid import LocalGrid
from server.simulation import default_options
from server.tasks import make_task
from settings.options import Scalar
from strategies import RULES

SMALL: dict[str, Scalar] = {
    "model": "sasrec",
    "engine": "local",
    "num-nodes": 2,
    "num-server-rounds": 3,
    "eval-every": 3,
    "eval-users": 60,
    "clients-per-round": 20,
    "embedding-dim": 8,
    "max-length": 20,
    "malicious-fraction": 0.1,
    "checkpoint-every": 0,
    "tracker": "none",
}
BOTH: dict[str, Scalar] = {**SMALL, "attack": "cluster", "defense": "union+norm-bound", "num-server-rounds": 4}


def assert_sound(directory: Path, summary: dict[str, Any], rounds: int) -> None:
    """Every round moved the model by updates of everybody, and nothing went wrong on the way."""
    assert summary["status"] == "completed"
    assert summary["rounds"] == rounds
    assert (summary["skipped_rounds"], summary["failed_answers"], summary["rejected"]) == (0, 0, {})
    model, lines = model_and_lines(directory)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.values())
    attack = json.loads((directory / "config.json").read_text())["options"]["attack"]
    assert any(line.get("malicious") for line in lines) == (attack != "none")
    assert all(line["updates"] == 20 for line in lines if "updates" in line)


@pytest.mark.parametrize("model", ["sasrec", "ncf"])
@pytest.mark.parametrize("attack", ["none", *ATTACKS])
def test_every_attack_runs(attack: str, model: str, tmp_path: Path) -> None:
    directory, summary = run(
        tmp_path, {**SMALL, "model": model, "attack": attack, "target-items": "coldest:2", "public-share": 0.1}
    )
    assert_sound(directory, summary, 3)
    assert ("only a simulation grants" in summary.get("notice", "")) == (attack == "spattack-o")


# Two work with a validation set at the server, which recommendation does not have.
DEFENSES = [name for name in RULES if name not in ("mean", "accuracy-check", "fltrust")]


@pytest.mark.parametrize("defense", [*DEFENSES, "fl-wbc", "union+multi-krum", "union+norm-bound"])
def test_every_defense_runs(defense: str, tmp_path: Path) -> None:
    directory, summary = run(tmp_path, {**SMALL, "attack": "cluster", "defense": defense})
    assert_sound(directory, summary, 3)


# What a rule gets is made alike for all models; these look at shared parameters, or train on the node.
@pytest.mark.parametrize("defense", ["median", "bulyan", "per-item-krum", "fl-wbc", "union+multi-krum"])
def test_defenses_run_on_ncf(defense: str, tmp_path: Path) -> None:
    directory, summary = run(tmp_path, {**SMALL, "model": "ncf", "attack": "cluster", "defense": defense})
    assert_sound(directory, summary, 3)


def test_ncf_trains_its_network_and_gives_the_same_on_any_number_of_nodes(tmp_path: Path) -> None:
    regularisers: dict[str, Scalar] = {"pieck-item-weight": 0.1, "pieck-user-weight": 0.1}
    defense = "popularity-separation+union+norm-bound"
    options: dict[str, Scalar] = {**BOTH, **regularisers, "model": "ncf", "defense": defense, "checkpoint-every": 2}
    two = run(tmp_path / "two", options)[0]
    assert_same(two, run(tmp_path / "three", {**options, "num-nodes": 3})[0])
    first, trained = make_task(server_config({**default_options(), **options})).first, model_and_lines(two)[0]
    assert bool((trained["shared"] != first.shared).to(torch.float32).mean() > 0.9)
    # Each user's vector is kept on its node, as MF's.
    assert any(state["users"] for state in nodes_state(two).values())


def test_an_honest_user_is_within_the_bound_of_its_own_task(tmp_path: Path) -> None:
    for task in ("on", "off"):
        options: dict[str, Scalar] = {**SMALL, "defense": "support-bound", "contrastive-task": task}
        lines = model_and_lines(run(tmp_path, {**options, "run-name": task})[0])[1]
        assert all(line["rules"]["support-bound"]["filtered"] == [] for line in lines if "rules" in line)


def test_the_papers_values_are_this_models() -> None:
    chosen = server_config({**default_options(), "model": "sasrec", "defense": "norm-bound"})
    assert chosen.options.learning_rate == 1e-3
    assert chosen.rule().options.threshold == 1.5
    assert len(make_task(chosen).first.shared) == 55_040


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("two"), BOTH)[0]


def test_the_encoder_is_trained(two_nodes: Path) -> None:
    first = make_task(server_config({**default_options(), **BOTH})).first
    trained = model_and_lines(two_nodes)[0]
    assert not torch.equal(trained["items"], first.items)
    # Of 20 positions every one was somebody's newest but one.
    assert bool((trained["shared"] != first.shared).to(torch.float32).mean() > 0.99)


def test_three_nodes_give_what_two_give(two_nodes: Path, tmp_path: Path) -> None:
    assert_same(two_nodes, run(tmp_path, {**BOTH, "num-nodes": 3})[0])


def test_ray_actors_give_what_this_process_gives(two_nodes: Path, tmp_path: Path) -> None:
    assert_same(two_nodes, run(tmp_path, {**BOTH, "engine": "ray", "num-nodes": 2})[0])


def test_a_resumed_run_is_the_same_run_and_keeps_no_vectors(two_nodes: Path, tmp_path: Path) -> None:
    kept: dict[str, Scalar] = {**BOTH, "checkpoint-every": 2, "eval-every": 3, "run-name": "resumed"}
    directory, _ = run(tmp_path, {**kept, "num-server-rounds": 3})
    run(tmp_path, {**kept, "resume": str(directory / "checkpoints" / "round-000000002.safetensors")})
    assert_same(two_nodes, directory)
    states = nodes_state(directory).values()
    assert any(state["attack"] for state in states)
    assert not any(state["users"] for state in states)


def test_a_round_that_is_asked_for_again_attacks_once(tmp_path: Path) -> None:
    """The attack's state goes back with the round, although no vectors do."""
    options = {**default_options(), **BOTH, "num-nodes": 1}
    chosen = server_config(options)
    grid = LocalGrid(client.app.app, dict(options), 1, str(tmp_path), run_id=77)
    model = make_task(chosen).first
    replies = []
    grid.send_and_receive([Message(query_content(PopulationQuery("run")), 1, "query", group_id="0")])
    for server_round in (1, 2, 2, 3):
        asked = TrainRequest(server_round, torch.arange(300), "run", LossOptions())
        content: RecordDict = request_content(model_record(model), asked)
        (reply,) = grid.send_and_receive([Message(content, 1, "train", group_id=str(server_round))])
        replies.append(read_own_reply(reply.content).updates)
    assert torch.equal(replies[1].rows, replies[2].rows)
    (kept,) = (opened(path) for path in kept_states(tmp_path))
    with kept.begin():
        newest, state = kept.newest(), kept.attack()
    assert newest == 3
    assert state is not None
    # Algorithm 1 counts a step up or down in every round after its first.
    assert state["rises"] + state["falls"] == 2
