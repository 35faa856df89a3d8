"""Replies are looked for in turns, by a bounded number of threads, and nobody's look holds up another's."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.exchange import LOOKS_A_SECOND, LOOKS_AT_ONCE, Pending, exchange
from server.looks import Looks


class SilentGrid(Grid):
    """Has no reply of anybody, but of those in ``answering``; a look for one in ``hanging`` lasts until ``over``."""

    def __init__(self) -> None:
        self.answering: set[int] = set()
        self.hanging: set[int] = set()
        self.over = threading.Event()
        self.calls: Counter[str] = Counter()
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
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._sent = {str(place): message for place, message in enumerate(messages)}
        return list(self._sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        [message_id] = message_ids
        self.calls[message_id] += 1
        sent = self._sent[message_id]
        if sent.metadata.dst_node_id in self.hanging:
            self.over.wait()
        return [Message(RecordDict(), reply_to=sent)] if sent.metadata.dst_node_id in self.answering else []


def queries(count: int) -> list[Message]:
    return [Message(RecordDict(), node, "query", group_id="0") for node in range(1, count + 1)]


def test_all_messages_have_their_turn_and_no_look_makes_more_calls_than_its_share() -> None:
    grid = SilentGrid()
    pending = Pending(grid)
    pending.send(queries(200))
    for number in range(1, 26):
        assert pending.collect() == []
        assert sum(grid.calls.values()) == number * LOOKS_AT_ONCE
        assert max(grid.calls.values()) - min(grid.calls[str(one)] for one in range(200)) <= 1


def test_the_calls_a_second_are_bounded_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("server.exchange.time.sleep", slept.append)
    grid = SilentGrid()
    pending = Pending(grid)
    pending.send(queries(200))
    for _ in range(50):
        pending.collect()
        pending.rest()
    assert sum(grid.calls.values()) / sum(slept) <= LOOKS_A_SECOND


def test_threads_are_used_again() -> None:
    looks, started = Looks[int](), set[int]()
    for _ in range(50):
        both = threading.Barrier(2)

        def look(both: threading.Barrier = both) -> int:
            both.wait()
            started.add(threading.get_ident())
            return 1

        assert [future.result(60) for future in [looks.start(look), looks.start(look)]] == [1, 1]
    assert len(started) == 2


def test_more_nodes_that_withhold_their_reply_than_look_at_once_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.exchange.PATIENCE", 0.05)
    grid = SilentGrid()
    hanging = 2 * LOOKS_AT_ONCE
    grid.hanging, grid.answering = set(range(1, hanging + 1)), set(range(hanging + 1, hanging + 41))
    try:
        replies = exchange(grid, queries(hanging + 41), 5.0)
    finally:
        grid.over.set()
    assert {reply.metadata.src_node_id for reply in replies} == grid.answering
    assert all(grid.calls[str(one)] == 1 for one in range(hanging)), "a look under way is not begun again"


def test_what_came_while_others_had_their_turn_is_taken_at_the_end() -> None:
    grid = SilentGrid()
    grid.answering = set(range(1, 101))
    assert len(exchange(grid, queries(100), 0.0)) == 100


def test_what_a_look_raises_comes_out() -> None:
    looks = Looks[int]()
    with pytest.raises(ZeroDivisionError):
        looks.start(lambda: 1 // 0).result(60)
    assert looks.start(lambda: 1).result(60) == 1
