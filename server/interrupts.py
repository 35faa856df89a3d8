"""Ctrl-C: the first one lets the round end, the second one does not wait."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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
