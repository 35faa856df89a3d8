"""Send messages and wait for the replies, on whatever grid the run has."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future, wait
from functools import partial
from logging import WARNING

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.serverapp import Grid

from protocol.transport import CALL_ERRORS, is_over
from server.grids.direct_grid import DirectGrid
from server.looks import Looks
from server.patience import Deadline
from server.recovery.interrupts import StoppedError

SHORTEST_POLL, LONGEST_POLL = 0.002, 0.2
"""Seconds between two looks; each fruitless one takes a quarter longer than the last."""

LOOKS_AT_ONCE, PATIENCE = 32, 1.0
"""How many replies are looked for at a time, and for how many seconds these hold up the others."""

LOOKS_A_SECOND = 400
"""How many calls the SuperLink gets of a run that waits, however many messages are on their way."""

Answers = list[Message] | None

_looks = Looks[Answers]()


class Pending:
    """Messages on their way; ``collect`` takes the replies that have come, and may be called at any time.

    Messages take turns in being looked at. A node may announce a reply and withhold what belongs to it, for which
    Flower waits minutes: a look that takes long is left alone until it is done, and holds up no other.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._waiting: dict[str, Message] = {}
        self._looks: dict[str, Future[Answers]] = {}
        self._pause = SHORTEST_POLL
        self._made = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, messages: Iterable[Message]) -> None:
        """Hand messages to the grid; one that it does not take is not waited for."""
        batch = list(messages)
        if not batch:
            # To Flower an empty batch is an error.
            return
        try:
            ids = self._grid.push_messages(batch)
        except CALL_ERRORS as error:
            _refuse_end(error)
            raise
        self._waiting.update({message_id: sent for message_id, sent in zip(ids, batch, strict=False) if message_id})
        self._pause = SHORTEST_POLL

    def collect(self, at_most: int = LOOKS_AT_ONCE) -> list[Message]:
        """The replies that came, of ``at_most`` messages whose turn it is and of those whose look took long."""
        turn = [each for each in self._waiting if each not in self._looks][:at_most]
        for first in range(0, len(turn), LOOKS_AT_ONCE):
            part = turn[first : first + LOOKS_AT_ONCE]
            new = {each: _looks.start(partial(_pull, self._grid, each)) for each in part}
            self._looks |= new
            wait(new.values(), PATIENCE)
        for each in turn:
            # Their next turn comes after everybody else's.
            self._waiting[each] = self._waiting.pop(each)
        self._made = len(turn)
        done = {each: self._looks.pop(each).result() for each in list(self._looks) if self._looks[each].done()}
        got = {each: answers for each, answers in done.items() if answers is not None}
        self._pause = SHORTEST_POLL if got else min(self._pause * 1.25, LONGEST_POLL)
        sent = {each: self._waiting.pop(each) for each in got}
        return [_by_its_node(reply, sent[each]) for each, answers in got.items() for reply in answers]

    def rest(self) -> None:
        """Sleep between two looks: shortly while replies come in, longer while there are none."""
        time.sleep(max(self._pause, self._made / LOOKS_A_SECOND))


def exchange(grid: Grid, messages: Iterable[Message], timeout: float, patience: float = 0.0) -> list[Message]:
    """The replies that came within ``timeout`` seconds; who did not answer is absent.

    ``patience``: see ``Deadline``; the nodes of the project's own engines are its own, and are not hurried. Raises
    ``StoppedError`` where the SuperLink takes no more requests of this run.
    """
    if isinstance(grid, DirectGrid):
        return list(grid.send_and_receive(messages, timeout=timeout))
    pending, sent = Pending(grid), list(messages)
    deadline = Deadline(len(sent), timeout, patience, time.monotonic())
    pending.send(sent)
    replies: list[Message] = []
    while len(pending):
        replies += pending.collect()
        deadline.note(replies, time.monotonic())
        if deadline.is_over(time.monotonic()):
            break
        if len(pending):
            pending.rest()
    # What has come while others had their turn.
    replies += pending.collect(len(pending))
    return replies


def _by_its_node(reply: Message, sent: Message) -> Message:
    """A reply as that of the node that was asked, whoever it says that it is from.

    A reply's own sender was written by the node. The SuperLink, which gave it out as the reply to this message, knows
    better; and what it answers itself for a node that is gone, it answers as nobody.
    """
    if reply.has_error():
        return Message(reply.error, reply_to=sent)
    if not reply.has_content():
        return Message(Error(ErrorCode.UNKNOWN, "a reply without content"), reply_to=sent)
    return Message(reply.content, reply_to=sent)


def _refuse_end(error: BaseException) -> None:
    """Raise ``StoppedError`` where an error means that the SuperLink takes no more requests of this run."""
    if is_over(error):
        raise StoppedError("The SuperLink takes no more requests of this run.") from error


def _pull(grid: Grid, message_id: str) -> Answers:
    """The reply to one message, ``None`` while there is none, nothing where it cannot even be unpacked.

    One at a time: an object that Flower cannot read raises and would take the others of its batch along.
    """
    try:
        answers = list(grid.pull_messages([message_id]))
    except CALL_ERRORS as error:
        _refuse_end(error)
        log(WARNING, "A reply could not be fetched and is dropped: %s: %s", type(error).__name__, error)
        return []
    except Exception as error:
        log(WARNING, "A reply could not be unpacked and is dropped: %s: %s", type(error).__name__, error)
        return []
    return answers or None
