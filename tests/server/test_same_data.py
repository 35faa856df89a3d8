"""Nodes and server compare their data, and a resumed run goes on with what it began with or not at all."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from safetensors.torch import load_file

import client.app
from protocol.messages import hosted_content, read_hosted, read_query
from server.config import server_config
from server.grids.local_grid import LocalGrid
from server.population.population import PopulationError
from server.results.run_directory import make_run_directory
from server.simulation import default_options, simulate
from server.training import run_training
from settings.options import OptionError

OPTIONS: dict[str, Any] = {
    "engine": "local",
    "num-nodes": 2,
    "num-server-rounds": 4,
    "eval-every": 2,
    "clients-per-round": 8,
    "embedding-dim": 8,
    "tracker": "none",
    "checkpoint-every": 2,
    "run-name": "run",
}

run_ids = count(90_000)


def write(path: Path, step: int) -> None:
    """Data of one size, whatever ``step``: only which item each row has differs."""
    rows = [(user, (user * 7 + place) % 40, place) for user in range(30) for place in range(1 + user % 9)]
    lines = [f"{user}\t{(item * step + step // 2) % 40}\t{time}\n" for user, item, time in rows]
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(lines))


def test_a_run_is_not_resumed_on_another_data_set_of_the_same_size(tmp_path: Path) -> None:
    path = tmp_path / "small.inter"
    options = {**OPTIONS, "dataset": str(path), "output-dir": str(tmp_path)}
    write(path, 1)
    simulate(options)
    write(path, 7)
    with pytest.raises(OptionError, match="data is not that with which the run was started"):
        simulate({**options, "num-server-rounds": 6, "resume": "latest"})
    write(path, 1)
    _, summary = simulate({**options, "num-server-rounds": 6, "resume": "latest"})
    assert (summary["status"], summary["rounds"]) == ("completed", 6)


def run(folder: Path, app: Any, **options: Any) -> dict[str, Any]:
    path = folder / "small.inter"
    write(path, 1)
    run_config = {**default_options(), **OPTIONS, "dataset": str(path), "output-dir": str(folder), **options}
    config = server_config(run_config)
    directory = make_run_directory(config)
    grid = LocalGrid(app, dict(run_config), 2, str(directory / "nodes"), next(run_ids))
    return run_training(grid, config, directory)


def test_a_node_with_another_copy_of_the_data_set_is_refused(tmp_path: Path) -> None:
    def app(message: Message, context: Context) -> Message:
        reply = client.app.app(message, context)
        if message.metadata.message_type == "query" and context.node_id == 2:
            hosted = read_hosted(reply.content)
            return Message(hosted_content(replace(hosted, data_digest="0" * 32)), reply_to=message)
        return reply

    with pytest.raises(PopulationError, match="node 2: its data set is another one than the server's"):
        run(tmp_path, app)


LOST = "The node's state in this run is gone, and the run is resumed: its users' private vectors would start anew."


def test_a_node_that_lost_its_state_ends_the_resume_with_its_sentence(tmp_path: Path) -> None:
    def forgetful(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query" and context.node_id == 1:
            raise OptionError(LOST)
        return client.app.app(message, context)

    run(tmp_path, client.app.app)
    model = load_file(tmp_path / "run" / "model.safetensors")["items"]
    with pytest.raises(PopulationError, match=r"node 1.*The node's state in this run is gone"):
        run(tmp_path, forgetful, resume="latest", **{"num-server-rounds": 6})
    # Nothing of it was kept: with its state the run goes on from where it was.
    summary = run(tmp_path, client.app.app, resume="latest", **{"num-server-rounds": 6})
    assert (summary["status"], summary["rounds"]) == ("completed", 6)
    assert not torch.equal(model, load_file(tmp_path / "run" / "model.safetensors")["items"])


def test_a_node_cannot_end_a_resumed_run_by_saying_so_later(tmp_path: Path) -> None:
    def hostile(message: Message, context: Context) -> Message:
        if message.metadata.message_type != "query" and context.node_id == 1:
            raise OptionError(LOST)
        return client.app.app(message, context)

    run(tmp_path, client.app.app)
    summary = run(tmp_path, hostile, resume="latest", **{"num-server-rounds": 6})
    assert (summary["status"], summary["rounds"]) == ("completed", 6)
    assert summary["failed_answers"] > 0


@pytest.mark.parametrize("asked_for", [True, False])
def test_nodes_are_told_whether_they_may_begin_anew(tmp_path: Path, asked_for: bool) -> None:
    told = []

    def listening(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query":
            told.append(read_query(message.content))
        return client.app.app(message, context)

    run(tmp_path, client.app.app)
    run(tmp_path, listening, resume="latest", **{"num-server-rounds": 6, "resume-without-state": asked_for})
    assert {(query.resumed_at, query.afresh) for query in told} == {((4,), asked_for)}
    [name] = {query.run for query in told}
    assert name.startswith("run-")
