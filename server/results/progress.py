"""How a run shows itself: one live line on a terminal or in a notebook, a line now and then in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from logging import INFO
from typing import Any

from flwr.common.logger import log

from server.outcome import RoundOutcome
from server.results.observers import Observer
from strategies.server_model import ServerModel

WIDTH_OF_LOG = 68
"""Characters of a line in a log: Flower puts 12 before each, and a terminal may have 80."""

LOG_EVERY = 10.0
LIVE_EVERY = 0.2
"""Seconds between two lines."""


class Progress(Observer):
    """Tells the round, the rate, the last metrics and the time left; ``metrics``: the names of those on ``test``."""

    def __init__(self, num_rounds: int, metrics: Sequence[str] = (), done: int = 0) -> None:
        self._names = metrics
        self._num_rounds = num_rounds
        self._first = done
        self._started = time.monotonic()
        self._shown = self._started
        self._metrics = list[str]()
        on_terminal = sys.stderr.isatty()
        self._live = on_terminal or "ipykernel" in sys.modules
        # Notebooks know no codes of terminals.
        self._erase = "\r\x1b[K" if on_terminal else f"\r{' ' * (_columns() - 1)}\r"

    def round(self, before: ServerModel, outcome: RoundOutcome, line: Mapping[str, Any]) -> None:
        """Show now and then that a round is done."""
        if time.monotonic() - self._shown >= (LIVE_EVERY if self._live else LOG_EVERY):
            self._show(outcome.server_round)

    def evaluation(self, line: Mapping[str, Any]) -> None:
        """Show the newest metrics, and remember them."""
        shown = [f"{name} {_shown(line['test'][name])}" for name in self._names]
        self._metrics = ["test " + shown[0], *shown[1:]] if shown else []
        self._show(line["round"])

    def close(self, status: str) -> None:
        """End the live line."""
        if self._live:
            print(file=sys.stderr, flush=True)

    def _show(self, server_round: int) -> None:
        self._shown = time.monotonic()
        rate = (server_round - self._first) / max(self._shown - self._started, 1e-9)
        left = (self._num_rounds - server_round) / rate if rate else float("inf")
        parts = [f"round {server_round}/{self._num_rounds}", f"{rate:.1f}/s", f"{clock(left)} left", *self._metrics]
        text = fitted(parts, _columns() - 1 if self._live else WIDTH_OF_LOG)
        if self._live:
            print(f"{self._erase}{text}", end="", file=sys.stderr, flush=True)
        else:
            log(INFO, text)


def fitted(parts: Sequence[str], width: int) -> str:
    """As many of the parts, from the first on, as one line of this width holds; the first one always."""
    text = parts[0]
    for part in parts[1:]:
        if len(text) + len(part) + 2 > width:
            break
        text = f"{text}  {part}"
    return text[:width]


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss, "?" for endless ones."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
