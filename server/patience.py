"""How long a round waits for the nodes that are left once others have answered."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Message

LEAST_PATIENCE = 30.0
"""Seconds that a round waits in any case: a node's first message starts a process, and one that is killed and started
anew is back, or given up by the SuperLink, after a few times as long."""


class Deadline:
    """When a round stops waiting: after ``timeout`` seconds, or once the nodes left are late relative to the others.

    ``asked``: how many nodes were asked. As soon as half of them have answered, the others are given ``patience`` times
    as long as that took, and ``LEAST_PATIENCE`` at least; 0: they are given ``timeout``. Errors are no answers: those
    who fail at once do not hurry the others. Half of the nodes cannot be had by a few.
    """

    def __init__(self, asked: int, timeout: float, patience: float, began: float) -> None:
        self._half = (asked + 1) // 2
        self._patience = patience
        self._began = began
        self._until = began + timeout
        self._settled = not patience

    def note(self, replies: Sequence[Message], now: float) -> None:
        """Take note of all replies so far."""
        if self._settled or sum(not reply.has_error() for reply in replies) < self._half:
            return
        self._settled = True
        allowed = max(self._patience * (now - self._began), LEAST_PATIENCE)
        self._until = min(self._until, self._began + allowed)

    def is_over(self, now: float) -> bool:
        """Whether nobody is waited for any more."""
        return now > self._until
