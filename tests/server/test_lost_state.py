"""A resume whose nodes no longer have what they kept is refused, and says so; other data have another digest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from client import answers
from client.state.about import kept_states
from data import load
from data.digest import shard_digest
from data.shard import load_shard
from data.texts import Texts
from protocol.messages import query_content, read_hosted
from protocol.requests import PopulationQuery
from server.population.population import PopulationError
from server.simulation import default_options, simulate
from settings.options import Scalar

NODES = 2
OPTIONS: dict[str, Scalar] = {
    "engine": "local",
    "num-nodes": NODES,
    "eval-every": 2,
    "clients-per-round": 8,
    "embedding-dim": 8,
    "tracker": "none",
    "checkpoint-every": 2,
    "run-name": "run",
}


def hosted(run_id: int, node: int, options: dict[str, Scalar], query: PopulationQuery, state_dir: Path) -> Message:
    config: dict[str, Scalar] = {"partition-id": node, "num-partitions": NODES, "state-dir": str(state_dir)}
    context = Context(run_id, node + 1, config, RecordDict(), {**default_options(), **options})  # type: ignore[arg-type]
    return answers.answer(Message(query_content(query), node + 1, "query", group_id="0"), context)


def test_a_resume_is_refused_where_the_nodes_state_is_gone(tmp_path: Path) -> None:
    options = {**OPTIONS, "output-dir": str(tmp_path)}
    directory, _ = simulate({**options, "num-server-rounds": 4})
    shutil.rmtree(directory / "nodes")
    with pytest.raises(PopulationError, match="The node's state in this run is gone, and the run is resumed"):
        simulate({**options, "num-server-rounds": 6, "resume": "latest"})


def test_a_node_goes_on_afresh_where_it_is_asked_to(tmp_path: Path) -> None:
    lost = PopulationQuery("run", (5,))
    with pytest.raises(Exception, match="The node's state"):
        hosted(81_001, 0, OPTIONS, lost, tmp_path)
    hosted(81_001, 0, OPTIONS, PopulationQuery("run", (5,), afresh=True), tmp_path)
    # From now on the state is there.
    hosted(81_001, 0, OPTIONS, lost, tmp_path)


def test_a_query_begins_the_state_so_that_its_loss_can_be_told_from_never_having_taken_part(tmp_path: Path) -> None:
    hosted(81_002, 1, OPTIONS, PopulationQuery("run"), tmp_path)
    assert len(kept_states(tmp_path / "run")) == 1


def test_the_digest_of_a_node_is_that_of_its_shard_and_changes_with_each_of_its_data(tmp_path: Path) -> None:
    rows = [(user, (user * 7 + k) % 40, k) for user in range(30) for k in range(4 + user % 9)]
    head = "user_id:token\titem_id:token\ttimestamp:float\n"

    def write(name: str, changed: list[tuple[int, int, int]]) -> str:
        path = tmp_path / f"{name}.inter"
        path.write_text(head + "".join("{}\t{}\t{}\n".format(*row) for row in changed))
        return str(path)

    def digest(run_id: int, dataset: str) -> str:
        query = PopulationQuery("run")
        reply = hosted(run_id, 0, {**OPTIONS, "dataset": dataset}, query, tmp_path / str(run_id))
        return read_hosted(reply.content).data_digest

    whole = write("whole", rows)
    first = digest(81_010, whole)
    interactions = load(whole)
    users = read_hosted(
        hosted(81_011, 0, {**OPTIONS, "dataset": whole}, PopulationQuery("r"), tmp_path / "x").content
    ).users
    shard = load_shard(interactions, users.numpy())
    assert first == shard_digest(shard, interactions.user_ids[shard.users], interactions.item_ids)
    assert first == digest(81_012, write("shuffled", rows[::-1]))
    others = {
        "items": [(user, (item * 7 + 3) % 40, k) for user, item, k in rows],
        "user ids": [(user + 100, item, k) for user, item, k in rows],
        "item ids": [(user, item + 100, k) for user, item, k in rows],
        "order": [(user, item, 100 - k) for user, item, k in rows],
    }
    digests = [digest(81_020 + k, write(name, changed)) for k, (name, changed) in enumerate(others.items())]
    assert len({first, *digests}) == 1 + len(others)


def test_the_digest_does_not_depend_on_how_numbers_are_stored() -> None:
    interactions = load("synthetic")
    shard = load_shard(interactions, np.arange(0, 50, 7))
    ids = interactions.user_ids[shard.users]
    narrower = replace(
        shard,
        users=shard.users.astype(np.int32),
        train_splits=shard.train_splits.astype(np.int32),
        train_items=shard.train_items.astype(np.int64),
    )
    found = shard_digest(shard, ids, interactions.item_ids)
    assert found == shard_digest(narrower, Texts(ids.letters, ids.splits.astype(np.int32)), interactions.item_ids)
