"""Send messages and wait for the replies, on whatever grid the run has."""

from __future__ import annotations

import time
from collections.abc import Iterable
from logging import WARNING

from flwr.app import Message
from flwr.common.logger import log
from flwr.serverapp import Grid

from server.direct_grid import DirectGrid

SHORTEST_POLL, LONGEST_POLL = 0.002, 0.2
"""Seconds between two looks; each fruitless one takes a quarter longer than the last."""


class Pending:
    """Messages on their way; ``collect`` takes the replies that have come, and may be called at any time."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._waiting: set[str] = set()
        self._pause = SHORTEST_POLL

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, messages: Iterable[Message]) -> None:
        """Hand messages to the grid; one that it does not take is not waited for."""
        batch = list(messages)
        if not batch:
            # To Flower an empty batch is an error.
            return
        self._waiting.update(message_id for message_id in self._grid.push_messages(batch) if message_id)
        self._pause = SHORTEST_POLL

    def collect(self) -> list[Message]:
        """The replies that came since the last call."""
        arrived = [(message_id, _pull(self._grid, message_id)) for message_id in sorted(self._waiting)]
        got = {message_id for message_id, answers in arrived if answers is not None}
        self._waiting -= got
        self._pause = SHORTEST_POLL if got else min(self._pause * 1.25, LONGEST_POLL)
        return [reply for _, answers in arrived for reply in answers or []]

    def rest(self) -> None:
        """Sleep between two looks: not at all long while replies come in, longer while there are none."""
        time.sleep(self._pause)


def exchange(grid: Grid, messages: Iterable[Message], timeout: float) -> list[Message]:
    """The replies that came within ``timeout`` seconds; who did not answer is absent."""
    if isinstance(grid, DirectGrid):
        return list(grid.send_and_receive(messages, timeout=timeout))
    pending = Pending(grid)
    pending.send(messages)
    replies: list[Message] = []
    deadline = time.monotonic() + timeout
    while len(pending) and time.monotonic() < deadline:
        replies += pending.collect()
        if len(pending):
            pending.rest()
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
