"""Send messages and wait for the replies, on whatever grid the run has."""

from __future__ import annotations

import time
from collections.abc import Iterable
from logging import WARNING
from typing import Protocol, runtime_checkable

from flwr.app import Message
from flwr.common.logger import log
from flwr.serverapp import Grid

SHORTEST_POLL, LONGEST_POLL = 0.002, 0.2
"""Seconds between two looks; each fruitless one takes a quarter longer than the last."""


@runtime_checkable
class DirectGrid(Protocol):
    """A grid that has its replies as soon as they are made, so that nobody needs to poll."""

    direct: bool


def exchange(grid: Grid, messages: Iterable[Message], timeout: float) -> list[Message]:
    """The replies that came within ``timeout`` seconds; who did not answer is absent."""
    if isinstance(grid, DirectGrid):
        return list(grid.send_and_receive(messages, timeout=timeout))
    waiting = {message_id for message_id in grid.push_messages(messages) if message_id}
    replies: list[Message] = []
    deadline, pause = time.monotonic() + timeout, SHORTEST_POLL
    while waiting and time.monotonic() < deadline:
        arrived = [(message_id, _pull(grid, message_id)) for message_id in sorted(waiting)]
        got = {message_id for message_id, answers in arrived if answers is not None}
        waiting -= got
        replies += [reply for _, answers in arrived for reply in answers or []]
        pause = SHORTEST_POLL if got else min(pause * 1.25, LONGEST_POLL)
        if waiting:
            time.sleep(pause)
    return replies


def _pull(grid: Grid, message_id: str) -> list[Message] | None:
    """The reply to one message, ``None`` while there is none, nothing where it cannot even be unpacked.

    One at a time: an object that Flower cannot read raises and would take the others of its batch along.
    """
    try:
        answers = list(grid.pull_messages([message_id]))
    except Exception as error:
        log(WARNING, "A reply could not be unpacked and is dropped: %s: %s", type(error).__name__, error)
        return []
    return answers or None
