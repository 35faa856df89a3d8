"""A run that is stopped from outside keeps its last whole round, and one that is resumed finds its nodes again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.run import RunNotRunningException
from what_runs_leave import nodes_state, results

from client import answers
from protocol.messages import read_hosted
from server.exchange import Pending, exchange
from server.grids.local_grid import LocalGrid
from server.population.nodes import discover
from server.population.population import PopulationError
from server.recovery.interrupts import StoppedError
from server.results.run_directory import held
from server.simulation import PROJECT, default_options, simulate
from settings.options import OptionError

OPTIONS: dict[str, Any] = {
    "engine": "local",
    "num-nodes": 2,
    "num-server-rounds": 9,
    "eval-every": 4,
    "checkpoint-every": 5,
    "clients-per-round": 30,
    "embedding-dim": 8,
    "attack": "cluster",
    "malicious-fraction": 0.1,
    "defense": "union+norm-bound",
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate({**OPTIONS, "output-dir": str(tmp_path_factory.mktemp("whole"))})[0]


@pytest.mark.parametrize(
    ("kind", "server_round", "goes_on_after"), [("train", 8, 7), ("train", 1, 0), ("evaluate", 8, 7)]
)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, StoppedError])
def test_a_run_that_is_stopped_while_it_waits_keeps_its_last_whole_round(
    tmp_path: Path,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    server_round: int,
    goes_on_after: int,
    stop: type[BaseException],
) -> None:
    """A round whose evaluation is still due is not complete: the run goes on after the one before."""
    send = LocalGrid.send_and_receive

    def stopping(self: LocalGrid, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        replies = send(self, messages, timeout=timeout)
        if (messages[0].metadata.message_type, messages[0].metadata.group_id) == (kind, str(server_round)):
            raise stop
        return replies

    options = {**OPTIONS, "output-dir": str(tmp_path)}
    with monkeypatch.context() as patched:
        patched.setattr(LocalGrid, "send_and_receive", stopping)
        with pytest.raises(stop):
            simulate(options)
    directory, _ = simulate({**options, "resume": "latest"})
    assert f'"resumed_at": [{goes_on_after}]' in (directory / "checkpoints" / "resumes.json").read_text()
    assert results(directory) == results(uninterrupted)
    assert nodes_state(directory) == nodes_state(uninterrupted)


class FlowersGrid(Grid):
    """A grid that hands out replies as a SuperLink does, of the nodes of ``inner``.

    A node in ``dead`` is given up so many times before it is there again; ``broken``: what fetching raises; a node in
    ``liars`` gives itself out as that other one; of a node in ``withholding`` nothing comes before ``over``.
    """

    def __init__(self, inner: LocalGrid, dead: dict[int, int], broken: Exception | None = None) -> None:
        self.liars: dict[int, int] = {}
        self.withholding: set[int] = set()
        self.over = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._inner = inner
        self._dead = dead
        self._broken = broken
        self._sent: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        before = len(self._sent)
        self._sent.update({str(place): message for place, message in enumerate(messages, before)})
        return [str(place) for place in range(before, len(self._sent))]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        [message_id] = message_ids
        sent = self._sent[message_id]
        node = sent.metadata.dst_node_id
        if self._broken is not None:
            raise self._broken
        if node in self.withholding:
            self.over.wait()
        if not self._dead.get(node):
            with self._one_at_a_time:
                [reply] = self._inner.send_and_receive([sent])
            reply.metadata.__dict__["_src_node_id"] = self.liars.get(node, node)
            return [reply]
        self._dead[node] -= 1
        reply = Message(Error(5, "Node Unavailable"), reply_to=sent)
        reply.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
        return [reply]


def nodes(run_id: int) -> LocalGrid:
    return LocalGrid(answers.answer, {**default_options(), "dataset": "synthetic"}, 2, "memory", run_id)


def test_a_node_that_was_given_up_before_it_answered_is_asked_again() -> None:
    """The SuperLink believes in a node that was killed until its lease ends; by then the node has been restarted."""
    grid = FlowersGrid(nodes(81), {2: 2})
    population = discover(grid, 0, 60.0)
    assert set(population.nodes.tolist()) == {1, 2}
    assert len(population.users) == 1000


def test_a_run_that_is_resumed_waits_for_its_own_nodes_and_takes_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found = discover(nodes(88), 0, 60.0).node_digests
    late = FlowersGrid(nodes(89), {2: 2})
    assert set(discover(late, 1, 60.0, expected=found).nodes.tolist()) == {1, 2}
    monkeypatch.setattr("server.population.nodes.ALONE", 0.0)
    before_it = FlowersGrid(
        LocalGrid(answers.answer, {**default_options(), "dataset": "synthetic"}, 3, "memory", 91), {}
    )
    with pytest.raises(PopulationError, match="the run needs the 2 nodes that it had before"):
        discover(before_it, 1, 1.0, expected=found)
    one_more = LocalGrid(answers.answer, {**default_options(), "dataset": "synthetic"}, 3, "memory", 90)
    with pytest.raises(PopulationError, match="no node hosted the same users when the run began"):
        discover(one_more, 1, 60.0, expected=found)


def test_what_the_superlink_answers_for_a_node_is_that_nodes_failure() -> None:
    grid = FlowersGrid(nodes(82), {2: 1})
    replies = exchange(grid, [Message(RecordDict(), node, "query", group_id="0") for node in (1, 2)], 60.0)
    assert {reply.metadata.src_node_id: reply.has_error() for reply in replies} == {1: False, 2: True}


def queries(*asked: int) -> list[Message]:
    return [Message(RecordDict(), node, "query", group_id="0") for node in asked]


def test_a_node_cannot_answer_as_another_one() -> None:
    """What a reply says of its sender was written by the node; what it was a reply to, the SuperLink knows."""
    grid = FlowersGrid(nodes(85), {})
    grid.liars = {2: 1}
    replies = exchange(grid, queries(1, 2), 60.0)
    hosted = {reply.metadata.src_node_id: read_hosted(reply.content).users for reply in replies}
    assert sorted(torch.cat(list(hosted.values())).tolist()) == list(range(1000))
    assert set(hosted) == {1, 2}


def test_a_node_that_withholds_what_it_announced_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.exchange.PATIENCE", 0.05)
    grid = FlowersGrid(nodes(86), {})
    # From here on both answer at once, where they do.
    assert len(exchange(grid, queries(1, 2), 60.0)) == 2
    # It comes first, and Flower waits minutes for it.
    grid.withholding = {1}
    replies = exchange(grid, queries(1, 2), 5.0)
    assert [reply.metadata.src_node_id for reply in replies] == [2]
    pending = Pending(grid)
    pending.send(queries(1))
    assert pending.collect() == []
    grid.over.set()
    deadline, late = time.monotonic() + 60, list[Message]()
    while not late and time.monotonic() < deadline:
        late = pending.collect()
    assert [reply.metadata.src_node_id for reply in late] == [1]


class Refusal(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


@pytest.mark.parametrize(
    "broken",
    [RunNotRunningException(), Refusal(grpc.StatusCode.UNAUTHENTICATED), Refusal(grpc.StatusCode.UNAVAILABLE)],
)
def test_a_superlink_that_takes_no_more_requests_ends_the_run_and_no_round(broken: Exception) -> None:
    """A round whose answers could not be fetched must not count as one in which nobody answered."""
    with pytest.raises(StoppedError, match="no more requests"):
        exchange(FlowersGrid(nodes(83), {}, broken), [Message(RecordDict(), 1, "query", group_id="0")], 5.0)


def test_a_superlink_that_takes_no_more_messages_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(self: FlowersGrid, messages: Iterable[Message]) -> Iterable[str]:
        raise RunNotRunningException

    monkeypatch.setattr(FlowersGrid, "push_messages", refusing)
    with pytest.raises(StoppedError, match="no more requests"):
        exchange(FlowersGrid(nodes(87), {}), queries(1), 5.0)


@pytest.mark.parametrize("broken", [ValueError("no such object"), Refusal(grpc.StatusCode.UNKNOWN)])
def test_a_reply_that_cannot_be_unpacked_costs_itself_alone(broken: Exception) -> None:
    message = Message(RecordDict(), 1, "query", group_id="0")
    assert exchange(FlowersGrid(nodes(84), {}, broken), [message], 5.0) == []


ENDING = """
import os, signal, sys, threading, time
from server.recovery.interrupts import ending_at_once
def in_a_thread():
    time.sleep(0.2)
    signal.raise_signal(signal.SIGINT)
def never():
    print("waited for", flush=True)
with ending_at_once():
    # Python waits for such a thread where a process ends in order.
    threading.Thread(target=time.sleep, args=(600,)).start()
    threading.Thread(target=in_a_thread).start()
    try:
        while True:
            time.sleep(0.01)
    finally:
        print("left in order")
never()
"""


def test_a_deployed_server_ends_at_once_and_in_order() -> None:
    """As Flower tells it: from a thread of its own."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", ENDING], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "left in order\n"), done.stderr


def test_a_directory_is_waited_for_while_its_last_process_ends(tmp_path: Path) -> None:
    begun, free = threading.Event(), threading.Event()

    def last() -> None:
        with held(tmp_path):
            begun.set()
            free.wait(60)

    other = threading.Thread(target=last)
    other.start()
    assert begun.wait(60)
    with pytest.raises(OptionError, match="another process"), held(tmp_path):
        pass
    threading.Timer(0.3, free.set).start()
    with held(tmp_path, 60.0):
        assert free.is_set()
    other.join()
