"""Send messages and wait for the replies, on whatever grid the run has."""

from __future__ import annotations

import time
from collections.abc import Iterable
from logging import WARNING

from flwr.app import Message
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.supercore.run import RunNotRunningException
from grpc import RpcError, StatusCode

from server.direct_grid import DirectGrid
from server.interrupts import StoppedError

SHORTEST_POLL, LONGEST_POLL = 0.002, 0.2
"""Seconds between two looks; each fruitless one takes a quarter longer than the last."""

OVER = (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED, StatusCode.UNAVAILABLE)
"""What a SuperLink that has ended the run answers, or that cannot be reached: it is no fault of a reply."""


class Pending:
    """Messages on their way; ``collect`` takes the replies that have come, and may be called at any time."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._waiting: dict[str, Message] = {}
        self._pause = SHORTEST_POLL

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, messages: Iterable[Message]) -> None:
        """Hand messages to the grid; one that it does not take is not waited for."""
        batch = list(messages)
        if not batch:
            # To Flower an empty batch is an error.
            return
        ids = self._grid.push_messages(batch)
        self._waiting.update({message_id: sent for message_id, sent in zip(ids, batch, strict=False) if message_id})
        self._pause = SHORTEST_POLL

    def collect(self) -> list[Message]:
        """The replies that came since the last call."""
        arrived = {message_id: _pull(self._grid, message_id) for message_id in sorted(self._waiting)}
        got = {message_id: answers for message_id, answers in arrived.items() if answers is not None}
        self._pause = SHORTEST_POLL if got else min(self._pause * 1.25, LONGEST_POLL)
        sent = {message_id: self._waiting.pop(message_id) for message_id in got}
        return [_by_its_node(reply, sent[message_id]) for message_id, answers in got.items() for reply in answers]

    def rest(self) -> None:
        """Sleep between two looks: not at all long while replies come in, longer while there are none."""
        time.sleep(self._pause)


def exchange(grid: Grid, messages: Iterable[Message], timeout: float) -> list[Message]:
    """The replies that came within ``timeout`` seconds; who did not answer is absent.

    Raises ``StoppedError`` where the SuperLink takes no more requests of this run.
    """
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


def _by_its_node(reply: Message, sent: Message) -> Message:
    """What the SuperLink itself answers for a node that is gone, as the answer of that node."""
    if reply.has_error() and reply.metadata.src_node_id != sent.metadata.dst_node_id:
        return Message(reply.error, reply_to=sent)
    return reply


def _pull(grid: Grid, message_id: str) -> list[Message] | None:
    """The reply to one message, ``None`` while there is none, nothing where it cannot even be unpacked.

    One at a time: an object that Flower cannot read raises and would take the others of its batch along.
    """
    try:
        answers = list(grid.pull_messages([message_id]))
    except (RunNotRunningException, RpcError) as error:
        # The former is no ``Exception``.
        if isinstance(error, RunNotRunningException) or error.code() in OVER:
            raise StoppedError("The SuperLink takes no more requests of this run.") from error
        log(WARNING, "A reply could not be fetched and is dropped: %s: %s", type(error).__name__, error)
        return []
    except Exception as error:
        log(WARNING, "A reply could not be unpacked and is dropped: %s: %s", type(error).__name__, error)
        return []
    return answers or None
