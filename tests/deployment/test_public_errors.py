"""Errors that leave a node say what is wrong, and nothing of its data nor of its folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import context_to_proto, message_to_proto

import client.app
from client import answers
from client.deployed import resident
from client.deployed.public_errors import public_text
from client.state import connections
from data import load
from server.grids.local_grid import LocalGrid
from server.population.catalogue import Catalogue
from server.population.nodes import discover
from server.population.population import PopulationError
from server.simulation import default_options
from settings.options import OptionError

SECRETS = ("alice", "hiv", "4111", "Bob", "secret-folder", "records-of-alice")
INTER = b"user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n"
CSV = b"user,item,timestamp\n1,2,3\n"
FILES = {
    "columns.csv": (CSV + b"alice,hiv-test,5,card 4111\n", "row 3: expected 3 columns, found 4"),
    "time.csv": (CSV + b"alice,hiv-test,yesterday with Bob\n", "row 3: the timestamp is no number"),
    "quote.csv": (CSV + b'"alice,hiv-test,5\n1,2,4\n', "CSV|row 3"),
    "utf.csv": (CSV + b"al\xffice,hiv,5\n", "row 3: the id in the column 'user' is not UTF-8"),
    "headless.csv": (b"alice,hiv,5\nalice,hiv,6\n", "row 1: there is no column 'user'"),
    "columns.inter": (INTER + b"alice\thiv\t5\tcard 4111\n", "line 3: expected 3 columns, found 4"),
    "time.inter": (INTER + b"alice\thiv\twith Bob\n", "line 3: the timestamp is no number"),
    "utf.inter": (INTER + b"al\xffice\thiv\t5\n", "line 3: the id in the column 'user_id' is not UTF-8"),
    "missing.inter": (None, "there is no such file"),
    "alice.txt": (b"alice", "expected one of|ends in"),
}


def context_of(data: str, run_id: int = 1) -> Context:
    node: dict[str, Any] = {"data": data, "state-dir": "memory"}
    return Context(run_id, 1, node, RecordDict(), {**default_options(), "dataset": "synthetic"})


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A broken file of a node's own, and what may be said of it."""
    content, told = FILES[request.param]
    path = tmp_path / "secret-folder" / f"records-of-alice-{request.param}"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    return str(path), told


def require_discreet(text: str) -> None:
    assert not [secret for secret in SECRETS if secret in text], text


@pytest.mark.parametrize("own", FILES, indirect=True)
def test_a_fault_in_a_nodes_own_data_reaches_the_server_as_kind_column_and_row(own: tuple[str, str]) -> None:
    path, told = own
    grid = LocalGrid(answers.answer, {**default_options(), "dataset": "synthetic"}, 1, "memory")
    grid._contexts = {1: context_of(path)}
    known = load("synthetic")
    with pytest.raises(PopulationError, match=told) as raised:
        discover(grid, 1, 5.0, Catalogue(known.user_ids, known.item_ids))
    require_discreet(str(raised.value))


@pytest.mark.parametrize("own", ["time.csv", "missing.inter"], indirect=True)
def test_a_deployed_node_says_no_more_whichever_process_answers(
    own: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = own
    message, context = Message(RecordDict(), 1, "query"), context_of(path)
    kind, answer = resident._answered(
        answers.answer,
        message_to_proto(message).SerializeToString(),
        context_to_proto(context).SerializeToString(),
    )
    assert kind == resident.ERROR
    said = json.loads(answer)
    assert told in said["text"]
    require_discreet(said["text"])
    # Whoever runs the node finds all of it in its log.
    assert "records-of-alice" in said["stack"]
    monkeypatch.setattr(sys, "argv", [client.app.DEPLOYED])
    monkeypatch.setattr(connections, "_synced", False)
    context.node_config["resident-seconds"] = 0.0
    with pytest.raises(RuntimeError, match=told) as raised:
        client.app._answer(message, context)
    require_discreet(str(raised.value))
    assert "records-of-alice" in str(raised.value.__cause__.__cause__)


def raised_by(call: Any) -> BaseException:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        call()
    return raised.value


@pytest.mark.parametrize(
    "call",
    [
        lambda: float("alice"),
        lambda: {}["alice"],
        lambda: Path("/secret-folder/alice").read_text(),
        lambda: subprocess.run(["/secret-folder/alice"], check=True),
        lambda: json.loads("alice"),
    ],
)
def test_of_an_error_that_nobody_foresaw_its_place_alone_is_told(call: Any) -> None:
    text = public_text(raised_by(call))
    require_discreet(text)
    assert "tests/deployment/test_public_errors.py, line" in text


@pytest.mark.parametrize(
    "path", ["/secret-folder/alice", "'/secret-folder/of alice/x'", "~/alice", "(/secret-folder/alice)", "'~/of alice'"]
)
def test_paths_are_cut_out_of_sentences(path: str) -> None:
    text = public_text(OptionError(f"state-dir = {path}: cannot be written, 3/4 of it are full."))
    require_discreet(text)
    assert text.startswith("state-dir = ")
    assert text.endswith("cannot be written, 3/4 of it are full.")
