"""A slow node is late relative to the others, and late is an offence; an honest one that is gone is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from test_stopped import FlowersGrid, nodes

from protocol.admission import Limits
from server import exchange as exchanging
from server.config import server_config
from server.exchange import exchange
from server.intake import take_in
from server.patience import LEAST_PATIENCE, Deadline
from server.results.run_directory import make_run_directory
from server.simulation import default_options
from server.tasks import make_task
from server.training import make_strategy

TIMEOUT = 600.0


def answers(good: int, bad: int = 0) -> list[Message]:
    asked = Message(RecordDict(), 1, "train", group_id="1")
    return [Message(RecordDict(), reply_to=asked) for _ in range(good)] + [
        Message(Error(2, "no"), reply_to=asked) for _ in range(bad)
    ]


@pytest.mark.parametrize(
    ("asked", "good", "bad", "seconds", "ends"),
    [
        (4, 2, 0, 20.0, 80.0),  # half of them took 20 s: the others get four times as long
        (5, 3, 0, 20.0, 80.0),
        (5, 2, 0, 20.0, TIMEOUT),  # not half yet
        (4, 0, 4, 20.0, TIMEOUT),  # errors hurry nobody
        (4, 2, 0, 0.1, LEAST_PATIENCE),
        (4, 2, 0, 200.0, TIMEOUT),  # never longer than without
    ],
)
def test_half_of_the_nodes_say_what_is_late(asked: int, good: int, bad: int, seconds: float, ends: float) -> None:
    deadline = Deadline(asked, TIMEOUT, 4.0, began=1000.0)
    deadline.note(answers(good, bad), 1000.0 + seconds)
    assert not deadline.is_over(1000.0 + ends - 0.01)
    assert deadline.is_over(1000.0 + ends + 0.01)


def test_the_first_half_settles_it_and_later_answers_do_not_move_it() -> None:
    deadline = Deadline(4, TIMEOUT, 4.0, began=0.0)
    deadline.note(answers(2), 20.0)
    deadline.note(answers(3), 70.0)
    assert deadline.is_over(80.5)


def test_without_patience_only_the_timeout_ends_a_round() -> None:
    deadline = Deadline(4, TIMEOUT, 0.0, began=0.0)
    deadline.note(answers(4), 1.0)
    assert not deadline.is_over(TIMEOUT - 1)


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Silent:
    """A SuperLink with three nodes, the last of which never answers."""

    def push_messages(self, messages: Any) -> list[str]:
        self.sent = {str(place): message for place, message in enumerate(messages)}
        return list(self.sent)

    def pull_messages(self, message_ids: Any) -> list[Message]:
        return [Message(RecordDict(), reply_to=self.sent[each]) for each in message_ids if each != "2"]


def test_a_silent_node_holds_a_round_up_no_longer_than_the_others_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(exchanging, "time", clock)
    messages = [Message(RecordDict(), node, "train", group_id="1") for node in (1, 2, 3)]
    replies = exchange(Silent(), messages, TIMEOUT, 4.0)  # type: ignore[arg-type]
    assert sorted(reply.metadata.src_node_id for reply in replies) == [1, 2]
    assert LEAST_PATIENCE < clock.now < LEAST_PATIENCE + 1


def test_late_is_an_offence_and_gone_is_none() -> None:
    users = torch.tensor([0])
    limits = {node: Limits(users + node, 5, 2, 0, 10) for node in (1, 2, 3)}
    replies = [
        Message(Error(code, "gone"), reply_to=Message(RecordDict(), node, "train", group_id="1"))
        for node, code in ((1, 5), (2, 2))
    ]
    intake = take_in(replies, 1, limits)
    assert set(intake.failed) == {1, 2, 3}
    assert intake.offenders == {2, 3}


@pytest.mark.parametrize(("deployed", "given", "expected"), [(False, -1, 0), (True, -1, 5), (True, 0, 0), (True, 2, 2)])
def test_offenders_are_quarantined_unless_asked_for_otherwise_where_nodes_are_others(
    tmp_path: Path, deployed: bool, given: int, expected: int
) -> None:
    config = server_config({**default_options(), "output-dir": str(tmp_path), "quarantine-after": given})
    inner = nodes(960 + 10 * deployed + given)
    grid = FlowersGrid(inner, {}) if deployed else inner
    strategy = make_strategy(grid, config, make_run_directory(config), make_task(config))
    assert strategy.settings.quarantine_after == expected
    assert strategy.settings.round_patience == 4.0
