"""Threads that look for replies: as many as look at once, and one more for each look that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Found = TypeVar("Found")

IDLE = 10.0
"""Seconds after which a thread ends that nobody needs."""


class Looks(Generic[Found]):
    """Calls functions in threads that are kept for the next calls.

    A thread that hangs in a call is not waited for: a new one takes its place, so that there are as many threads as
    calls under way. They do not keep the process alive, and end when there was nothing to do for a while.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Found], Future[Found]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0
        """How many threads wait for a call, without those that a call in the queue counts on."""

    def start(self, call: Callable[[], Found]) -> Future[Found]:
        """Begin a call; the future has what it returns or raises."""
        future: Future[Found] = Future()
        with self._lock:
            more = self._free == 0
            if not more:
                self._free -= 1
            self._calls.put((call, future))
        if more:
            threading.Thread(target=self._work, name="look", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            try:
                call, future = self._calls.get(timeout=IDLE)
            except Empty:
                with self._lock:
                    # A call that came this very moment has counted on this thread.
                    if self._calls.empty():
                        self._free -= 1
                        return
                continue
            try:
                found = call()
            except BaseException as error:
                self._is_free()
                future.set_exception(error)
            else:
                self._is_free()
                future.set_result(found)

    def _is_free(self) -> None:
        """Say so before the result is there: whoever waits for that may begin the next call at once."""
        with self._lock:
            self._free += 1
