"""How a run shows itself: one live line on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from logging import INFO
from typing import Any

from flwr.common.logger import log

from server.outcome import RoundOutcome
from server.results.observers import Observer
from strategies.server_model import ServerModel

LOG_EVERY = 10.0
LIVE_EVERY = 0.2
"""Seconds between two lines."""


class Progress(Observer):
    """Tells the round, the rate, the last metrics and the time left; ``metrics``: the names of those on ``test``."""

    def __init__(self, name: str, num_rounds: int, metrics: Sequence[str] = (), done: int = 0) -> None:
        self._name = name
        self._names = metrics
        self._num_rounds = num_rounds
        self._first = done
        self._started = time.monotonic()
        self._shown = self._started
        self._metrics = ""
        self._live = sys.stderr.isatty()

    def round(self, before: ServerModel, outcome: RoundOutcome, line: Mapping[str, Any]) -> None:
        """Show now and then that a round is done."""
        if time.monotonic() - self._shown >= (LIVE_EVERY if self._live else LOG_EVERY):
            self._show(outcome.server_round)

    def evaluation(self, line: Mapping[str, Any]) -> None:
        """Show the newest metrics, and remember them."""
        self._metrics = "  ".join(f"{name} {_shown(line['test'][name])}" for name in self._names)
        self._show(line["round"])

    def close(self, status: str) -> None:
        """End the live line."""
        if self._live:
            print(file=sys.stderr, flush=True)

    def _show(self, server_round: int) -> None:
        self._shown = time.monotonic()
        rate = (server_round - self._first) / max(self._shown - self._started, 1e-9)
        left = (self._num_rounds - server_round) / rate if rate else float("inf")
        text = f"{self._name}  round {server_round}/{self._num_rounds}  {rate:.1f} rounds/s  {clock(left)} left"
        text = f"{text}  {self._metrics}"
        if self._live:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        else:
            log(INFO, text)


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss, "?" for endless ones."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
