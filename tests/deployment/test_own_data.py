"""Nodes with data of their own: the same model as from partitions, and errors that name what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from safetensors.torch import load_file

import client.node
from client import answers
from client.recommend import recommend
from client.state.about import kept_states
from data import load
from data.interactions import Interactions
from data.partition import hosted_users, malicious_users
from protocol.requests import PopulationQuery
from server.config import server_config
from server.grids.local_grid import LocalGrid
from server.population.catalogue import Catalogue
from server.population.nodes import discover
from server.population.population import PopulationError
from server.simulation import default_options
from server.training import run_training
from settings.options import OptionError, Scalar

NODES = 3
QUERY = PopulationQuery("run")
OPTIONS: dict[str, Scalar] = {
    "dataset": "synthetic",
    "num-server-rounds": 4,
    "eval-every": 4,
    "clients-per-round": 30,
    "attack": "cluster",
    "malicious-fraction": 0.05,
    "defense": "norm-bound",
    "seed": 3,
}


@pytest.fixture(scope="module")
def interactions() -> Interactions:
    return load("synthetic")


def write_inter(path: Path, interactions: Interactions, users: np.ndarray, extra: str = "") -> Path:
    """These users' interactions as an atomic file, shuffled: neither order nor indexes are given away."""
    rows = []
    for user in users.tolist():
        for place in range(interactions.splits[user], interactions.splits[user + 1]):
            item = interactions.item_ids[interactions.items[place]]
            rows.append(f"{interactions.user_ids[user]}\t{item}\t{interactions.times[place]}")
    order = np.random.default_rng(0).permutation(len(rows))
    # Equal times keep the order of the file; a shuffle must not touch those.
    order = order if len(set(interactions.times.tolist())) == len(rows) else np.arange(len(rows))
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *(rows[place] for place in order)]
    path.write_text("\n".join(lines) + "\n" + extra)
    return path


def grid_of(node_configs: list[dict[str, Scalar]], run_config: dict[str, Scalar], run_id: int) -> LocalGrid:
    grid = LocalGrid(answers.answer, run_config, len(node_configs), "memory", run_id)
    grid._contexts = {
        node: Context(run_id, node, dict(config), RecordDict(), run_config)
        for node, config in enumerate(node_configs, 1)
    }
    return grid


def own_configs(folder: Path, interactions: Interactions, run_config: dict[str, Scalar]) -> list[dict[str, Scalar]]:
    """One file a node, of the users that it would host as a partition."""
    malicious = malicious_users(interactions.num_users, 0.05, int(run_config["seed"]))
    configs: list[dict[str, Scalar]] = []
    for node in range(NODES):
        users, attacker = hosted_users(interactions.num_users, malicious, node, NODES)
        path = write_inter(folder / f"{node}.inter", interactions, users)
        state = str(folder / "state" / str(node))
        role = "attacker" if attacker else "benign"
        configs.append({"data": str(path), "role": role, "state-dir": state, "data-dir": str(folder)})
    return configs


def run_of(config: dict[str, Scalar]) -> str:
    """The one run that a node keeps state of."""
    (path,) = kept_states(Path(str(config["state-dir"])))
    return path.parent.name


def train(grid: LocalGrid, run_config: dict[str, Scalar], directory: Path) -> tuple[torch.Tensor, dict[str, object]]:
    directory.mkdir(parents=True)
    summary = run_training(grid, server_config(run_config), directory)
    return load_file(directory / "model.safetensors")["items"], summary


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, interactions: Interactions
) -> tuple[Path, list[dict[str, Scalar]]]:
    """A run over nodes with files of their own, and the nodes' configurations."""
    folder = tmp_path_factory.mktemp("own")
    run_config = {**default_options(), **OPTIONS}
    configs = own_configs(folder, interactions, run_config)
    train(grid_of(configs, run_config, 11), run_config, folder / "runs" / "own")
    return folder, configs


def test_own_files_train_the_same_model_as_partitions(
    trained: tuple[Path, list[dict[str, Scalar]]], tmp_path: Path
) -> None:
    run_config = {**default_options(), **OPTIONS}
    grid = LocalGrid(answers.answer, run_config, NODES, "memory", 12)
    items, _ = train(grid, run_config, tmp_path / "partitions")
    own = load_file(trained[0] / "runs" / "own" / "model.safetensors")["items"]
    torch.testing.assert_close(own, items, rtol=0, atol=1e-6)


def test_a_restarted_node_remembers_what_was_agreed(
    trained: tuple[Path, list[dict[str, Scalar]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, configs = trained
    run_config = {**default_options(), **OPTIONS}
    monkeypatch.setattr(client.node, "_nodes", {})
    monkeypatch.setattr(client.node, "_stores", {})
    context = Context(11, 1, dict(configs[0]), RecordDict(), run_config)
    assert len(client.node.node_of(context, run_of(configs[0])).hosting.users) > 0
    with pytest.raises(OptionError, match="state-dir"):
        client.node.node_of(context, "another-run")


def test_unknown_items_are_named_and_their_node_is_refused(tmp_path: Path, interactions: Interactions) -> None:
    user = interactions.user_ids[0]
    extra = f"{user}\tno-such-item\t1.0\n{user}\tnor-this\t2.0\n"
    path = write_inter(tmp_path / "a.inter", interactions, np.arange(5), extra)
    other = write_inter(tmp_path / "b.inter", interactions, np.arange(5, 9))
    state = {"state-dir": "memory", "data-dir": str(tmp_path)}
    run_config = {**default_options(), "dataset": "synthetic"}
    catalogue = Catalogue(interactions.user_ids, interactions.item_ids)
    grid = grid_of([{"data": str(path), **state}], run_config, 21)
    with pytest.raises(
        PopulationError, match="items that the run's data set does not have: 'no-such-item', 'nor-this'"
    ):
        discover(grid, 1, 5.0, catalogue, query=QUERY)
    grid = grid_of([{"data": str(path), **state}, {"data": str(other), **state}], run_config, 22)
    population = discover(grid, 1, 5.0, catalogue, query=QUERY)
    assert population.users.tolist() == [5, 6, 7, 8]
    assert set(population.nodes.tolist()) == {2}


def test_who_comes_first_keeps_a_user(tmp_path: Path, interactions: Interactions) -> None:
    first = write_inter(tmp_path / "a.inter", interactions, np.arange(5))
    second = write_inter(tmp_path / "b.inter", interactions, np.arange(4, 9))
    state = {"state-dir": "memory", "data-dir": str(tmp_path)}
    run_config = {**default_options(), "dataset": "synthetic"}
    grid = grid_of([{"data": str(first), **state}, {"data": str(second), **state}], run_config, 31)
    catalogue = Catalogue(interactions.user_ids, interactions.item_ids)
    population = discover(grid, 1, 5.0, catalogue, query=QUERY)
    assert population.users.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(PopulationError, match=r"Refused: node 2: it claims user 4, whom node 1 hosts already"):
        discover(grid, 2, 1.0, catalogue, query=QUERY)


def test_too_few_nodes_are_said_to_be_too_few(tmp_path: Path, interactions: Interactions) -> None:
    run_config = {**default_options(), "dataset": "synthetic"}
    grid = grid_of([{"partition-id": 0, "num-partitions": 2, "state-dir": "memory"}], run_config, 41)
    with pytest.raises(PopulationError, match=r"After \d+\.\d s 1 nodes .* the run needs 2 nodes"):
        discover(grid, 2, 0.5, Catalogue(interactions.user_ids, interactions.item_ids))
    with pytest.raises(PopulationError, match="every user of the data set"):
        discover(grid, 0, 0.5, Catalogue(interactions.user_ids, interactions.item_ids))


def test_a_node_recommends_what_its_vector_and_the_table_say(
    trained: tuple[Path, list[dict[str, Scalar]]], interactions: Interactions
) -> None:
    folder, configs = trained
    model = folder / "runs" / "own" / "model.safetensors"
    own = load(str(configs[0]["data"]), folder)
    user = str(own.user_ids[3])
    found = recommend(Path(str(configs[0]["state-dir"])), model, user, 7)
    # The oracle: the vector that the node itself evaluates with, over all items, the known ones left out.
    import client.node

    context = Context(11, 1, dict(configs[0]), RecordDict(), {**default_options(), **OPTIONS})
    node = client.node.node_of(context, run_of(configs[0]))
    index = interactions.user_ids.tolist().index(user)
    private = node.private(run_of(configs[0]), 64)
    vector = private.at(np.array([index]), int(OPTIONS["num-server-rounds"]) + 1, 0.002).vectors[0]
    scores = (load_file(model)["items"] @ vector).numpy()
    history = interactions.items[interactions.splits[index] : interactions.splits[index + 1]]
    scores[history] = -np.inf
    expected = np.argsort(-scores, kind="stable")[:7]
    assert [one.item for one in found] == interactions.item_ids[expected].tolist()
    np.testing.assert_allclose([one.score for one in found], scores[expected], rtol=1e-5)


def test_a_node_says_whom_it_does_not_host(trained: tuple[Path, list[dict[str, Scalar]]], tmp_path: Path) -> None:
    folder, configs = trained
    model = folder / "runs" / "own" / "model.safetensors"
    with pytest.raises(OptionError, match="does not host"):
        recommend(Path(str(configs[0]["state-dir"])), model, "nobody")
    with pytest.raises(OptionError, match="no node has kept"):
        recommend(tmp_path, model, "nobody")
    with pytest.raises(OptionError, match="cannot be read"):
        recommend(Path(str(configs[0]["state-dir"])), tmp_path / "model.safetensors", "nobody")


def test_a_file_with_other_ids_of_the_same_number_is_noticed(
    tmp_path: Path, interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agreed indexes would then stand for other users and items."""
    run_config = {**default_options(), "dataset": "synthetic"}
    path = write_inter(tmp_path / "own.inter", interactions, np.arange(5))
    config = {"data": str(path), "state-dir": str(tmp_path / "state"), "data-dir": str(tmp_path)}
    grid = grid_of([config], run_config, 61)
    discover(grid, 1, 60.0, Catalogue(interactions.user_ids, interactions.item_ids), query=QUERY)
    write_inter(path, interactions, np.array([0, 1, 2, 3, 5]))
    os.utime(path, ns=(0, 0))
    context = Context(61, 1, dict(config), RecordDict(), run_config)
    # As in another process.
    monkeypatch.setattr(client.node, "_nodes", {})
    with pytest.raises(OptionError, match="its users or items have changed since the run began"):
        client.node.node_of(context, "run")
