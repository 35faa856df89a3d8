"""What watches a run without being part of it: an observer is told, and whatever it raises never ends a training.

The run's record is no observer: ``Recorder``'s files and the checkpoints. What they cannot write is lost, so that the
run ends with ``StorageError``. An observer that keeps results of its own there (``UpdateLog``) raises the same error,
the only one that is passed on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from logging import WARNING
from typing import Any

from flwr.common.logger import log

from server.outcome import RoundOutcome
from server.results.storage import StorageError
from strategies.server_model import ServerModel

Line = Mapping[str, Any]

MOST_FAILURES = 10
"""An observer that failed so many times in a row is not told any more: each time may have taken seconds."""


class Observer:
    """Is told of a run; a kind of observer overrides what it wants to hear."""

    @property
    def name(self) -> str:
        """What a warning calls it."""
        return type(self).__name__

    def begin(self, options: Line, done: int) -> None:
        """The run's options, before its first round; ``done`` rounds are behind it where it is resumed."""

    def round(self, before: ServerModel, outcome: RoundOutcome, line: Line) -> None:
        """One round: the model that nodes got, how it went, and its line of ``rounds.jsonl``."""

    def evaluation(self, line: Line) -> None:
        """One evaluation: its line of ``metrics.jsonl``."""

    def close(self, status: str) -> None:
        """There will be no more; ``status``: the run's."""


class Observers(Observer):
    """Several observers as one that raises ``StorageError`` alone."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = list(observers)
        self._failures = Counter[int]()
        self._in_a_row = Counter[int]()

    def begin(self, options: Line, done: int) -> None:
        self._tell(lambda one: one.begin(options, done), weight=MOST_FAILURES)

    def round(self, before: ServerModel, outcome: RoundOutcome, line: Line) -> None:
        self._tell(lambda one: one.round(before, outcome, line))

    def evaluation(self, line: Line) -> None:
        self._tell(lambda one: one.evaluation(line))

    def close(self, status: str) -> None:
        self._tell(lambda one: one.close(status))
        for index, count in self._failures.items():
            name = self._observers[index].name
            log(WARNING, "%s failed %d times in this run: what it keeps has gaps.", name, count)

    def _tell(self, call: Callable[[Observer], None], weight: int = 1) -> None:
        for index, one in enumerate(self._observers):
            if self._in_a_row[index] >= MOST_FAILURES:
                continue
            try:
                call(one)
                self._in_a_row[index] = 0
            except StorageError:
                raise
            except Exception as error:
                self._failures[index] += 1
                self._in_a_row[index] += weight
                if self._failures[index] == 1:
                    log(WARNING, "%s failed; the run goes on. %s: %s", one.name, type(error).__name__, error)
                if self._in_a_row[index] >= MOST_FAILURES:
                    log(WARNING, "%s is not told of this run any more.", one.name)
