"""One seed, one result: whatever the engine, the number of nodes, and the order in which replies come in."""

import json
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict
from safetensors.torch import load_file

from server.config import server_config
from server.grids import engine
from server.grids.handed_memory import HandedMemory
from server.grids.local_grid import LocalGrid
from server.results.run_directory import make_run_directory
from server.simulation import default_options, simulate
from server.training import run_training

OPTIONS = {
    "num-server-rounds": 6,
    "eval-every": 3,
    "clients-per-round": 40,
    "attack": "cluster",
    "malicious-fraction": 0.05,
    "defense": "union+norm-bound",
    "target-items": "coldest:2",
    "seed": 3,
}


def run(output_dir: Path, **options) -> tuple[dict[str, torch.Tensor], list[dict], list[dict]]:
    """The final model, the metrics and the rounds of one run, without what depends on the clock."""
    return read(simulate({**OPTIONS, "output-dir": str(output_dir), **options})[0])


def read(directory: Path) -> tuple[dict[str, torch.Tensor], list[dict], list[dict]]:
    lines = []
    for name in ("metrics.jsonl", "rounds.jsonl"):
        rows = [json.loads(line) for line in (directory / name).read_text().splitlines()]
        timed = ("seconds", "evaluation_seconds", "bytes_down")
        lines.append([{key: value for key, value in row.items() if key not in timed} for row in rows])
    return load_file(directory / "model.safetensors"), lines[0], lines[1]


def assert_same(first, second) -> None:
    assert torch.equal(first[0]["items"], second[0]["items"])
    assert first[1] == second[1]
    without_bytes = [[{k: v for k, v in row.items() if k != "bytes_up"} for row in rows[2]] for rows in (first, second)]
    assert without_bytes[0] == without_bytes[1]


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    return run(tmp_path_factory.mktemp("two"), engine="local", **{"num-nodes": 2})


def test_the_attack_and_the_defense_took_part(two_nodes) -> None:
    rounds = two_nodes[2]
    assert any(row["malicious"] for row in rounds)
    assert any(row["attack"] for row in rounds)
    assert all(set(row["rules"]) == {"union", "norm-bound"} for row in rounds)
    assert all(row["test"]["target-rank"] > 1 for row in two_nodes[1])


@pytest.mark.parametrize("nodes", [5, 60])
def test_more_nodes_give_what_two_give(two_nodes, tmp_path, nodes) -> None:
    """Also where malicious users would fill several: it is one attacker, with one memory and one sample."""
    assert_same(two_nodes, run(tmp_path, engine="local", **{"num-nodes": nodes}))


def test_malicious_users_count_as_benign_while_they_do_not_attack(two_nodes, tmp_path) -> None:
    rounds = run(tmp_path, engine="local", **{"num-nodes": 2, "attack-start": 2, "attack-stop": 4})[2]
    malicious = {row["round"]: row["malicious"] for row in two_nodes[2]}
    assert any(malicious[number] for number in (2, 3, 4))
    assert any(malicious[number] for number in (1, 5, 6))
    assert {row["round"]: row["malicious"] for row in rounds} == malicious | {1: [], 5: [], 6: []}
    [directory] = tmp_path.iterdir()
    found = json.loads((directory / "summary.json").read_text())["detection"]["union"]
    caught = sum(len(set(row["rules"]["union"]["filtered"]) & set(row["malicious"])) for row in rounds)
    assert found["recall"] == pytest.approx(caught / sum(len(row["malicious"]) for row in rounds))


def test_ray_actors_give_what_this_process_gives(two_nodes, tmp_path) -> None:
    assert_same(two_nodes, run(tmp_path, engine="ray", **{"num-nodes": 3}))


def test_arrays_may_as_well_go_through_rays_object_store(two_nodes, tmp_path, monkeypatch) -> None:
    """As they do for an actor on another machine, which cannot read this one's memory."""

    def elsewhere(self: HandedMemory) -> None:
        raise OSError("no such memory")

    monkeypatch.setattr(HandedMemory, "__init__", elsewhere)
    assert_same(two_nodes, run(tmp_path, engine="ray", **{"num-nodes": 2}))


def test_the_order_of_replies_does_not_matter(two_nodes, tmp_path, monkeypatch) -> None:
    class Backwards(LocalGrid):
        def send_and_receive(self, messages, *, timeout=None):
            return list(super().send_and_receive(messages, timeout=timeout))[::-1]

    monkeypatch.setattr("server.grids.local_grid.LocalGrid", Backwards)
    assert_same(two_nodes, run(tmp_path, engine="local", **{"num-nodes": 5}))


def test_another_seed_gives_another_model(two_nodes, tmp_path) -> None:
    other = run(tmp_path, engine="local", seed=4, **{"num-nodes": 2})
    assert not torch.equal(two_nodes[0]["items"], other[0]["items"])


def test_a_run_may_be_driven_step_by_step(tmp_path) -> None:
    """``open_engine`` and ``run_training`` are all that a program of one's own needs."""
    run_config = {**default_options(), **OPTIONS, "engine": "local", "num-nodes": 2, "output-dir": str(tmp_path)}
    config = server_config(run_config)
    directory = make_run_directory(config)
    with engine.open_engine(None, config, Context(1, 0, {}, RecordDict(), run_config), directory) as grid:
        summary = run_training(grid, config, directory)
    assert summary["status"] == "completed"
    assert summary["rounds"] == OPTIONS["num-server-rounds"]
