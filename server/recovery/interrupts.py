"""Ctrl-C: the first one lets the round end, the second one does not wait; and the end of a run that is deployed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StoppedError(RuntimeError):
    """A deployed run whose SuperLink takes no more requests of it."""


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let SIGINT leave what is inside by ``KeyboardInterrupt``, and then end this process.

    Flower sends it to a deployed ServerApp that was stopped, or whose SuperLink has died: answers would be waited for
    without end. Its own way out may wait for ever too, for a lock that it holds itself (1.34). And to tell a SuperLink
    that comes back that the run has failed brings nodes that were getting a message out of step.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def finishing_rounds() -> Iterator[Callable[[], bool]]:
    """A function that says whether the run was asked to stop.

    Only a process's main thread can listen for signals; elsewhere nobody ever asks this way.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def note(signum: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)
        # Not by a logger: the signal may have come while one was writing.
        os.write(2, b"\nStopping after this round; Ctrl-C once more stops at once.\n")

    signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
