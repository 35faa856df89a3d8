"""What a run leaves on disk: its record, its checkpoints, and what its observers make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.common.logger import log

from server.outcome import RoundOutcome
from server.recovery.checkpoint import Checkpoint, Checkpoints
from server.results.observers import Observer, Observers
from server.results.recorder import Recorder, round_line
from server.results.storage import StorageError, storing
from server.state import RunState


class Journal:
    """Is told by the training what happened, and keeps nothing of it."""

    def begin(self, state: RunState) -> None:
        """Before the first round."""

    def round(self, before: RunState, outcome: RoundOutcome, evaluation: Mapping[str, Any] | None) -> None:
        """One round, with its line of an evaluation where there was one; ``before``: the state before the round."""

    def checkpoint(self, state: RunState, due: bool = True) -> RunState:
        """Write the state down where that is due; returns it with the round to which a resume may go back now."""
        return replace(state, keep_from=state.round)

    def interrupted(self, state: RunState) -> None:
        """The run was stopped after the last round that was told."""
        log(WARNING, "Stopped after round %d.", state.round)

    def end(self, status: str, state: RunState, results: Mapping[str, Any]) -> dict[str, Any]:
        """There will be no more rounds; returns the run's summary."""
        return {"status": status, **results}


@dataclass(frozen=True)
class RunIdentity:
    """What of a run stays the same: ``options`` by name; ``about``: what a resume must find again.

    ``item_ids``: the original ids of the model's rows; ``notice``: what whoever reads its results must know.
    """

    options: Mapping[str, Any]
    about: Mapping[str, Any]
    item_ids: Sequence[str]
    notice: str = ""


class RunJournal(Journal):
    """Keeps a run in its directory, and tells its observers.

    Raises ``StorageError`` where the disk refuses the run's record; what observers raise ends no training.
    ``every``: rounds from one checkpoint to the next, 0 for none.
    """

    def __init__(
        self,
        directory: Path,
        identity: RunIdentity,
        checkpoints: Checkpoints,
        every: int,
        observers: Sequence[Observer],
        positions: Mapping[str, int] | None = None,
    ) -> None:
        self._directory = directory
        self._identity = identity
        self._checkpoints = checkpoints
        self._every = every
        self._recorder = Recorder(directory, positions)
        self._observers = Observers(observers)
        self._written = 0

    def begin(self, state: RunState) -> None:
        self._written = state.round
        self._recorder.config(dict(self._identity.options))
        self._observers.begin(self._identity.options, state.round)

    def round(self, before: RunState, outcome: RoundOutcome, evaluation: Mapping[str, Any] | None) -> None:
        # An interrupt between two lines must not make a checkpoint that knows of one of them.
        self._written = -1
        line = round_line(outcome)
        self._recorder.round(line)
        if evaluation is not None:
            self._recorder.evaluation(evaluation)
        self._written = outcome.server_round
        self._observers.round(before.model, outcome, line)
        if evaluation is not None:
            self._observers.evaluation(evaluation)

    def checkpoint(self, state: RunState, due: bool = True) -> RunState:
        if not self._every:
            return super().checkpoint(state, due)
        if state.round != self._written or not (due or state.round % self._every == 0):
            return state
        about = {**self._identity.about, "positions": self._recorder.positions()}
        with storing(self._directory):
            self._checkpoints.write(Checkpoint(state, about))
            return replace(state, keep_from=self._checkpoints.oldest())

    def interrupted(self, state: RunState) -> None:
        if not self._every:
            super().interrupted(state)
            return
        self.checkpoint(state)
        log(WARNING, "Stopped after round %d; go on with resume='%s'.", state.round, self._directory)

    def end(self, status: str, state: RunState, results: Mapping[str, Any]) -> dict[str, Any]:
        notice = {"notice": self._identity.notice} if self._identity.notice else {}
        summary = {"status": status, "run": self._directory.name, **notice, **results}
        # Where the disk is full, the error that says so is already on its way.
        with suppress(StorageError) if status == "interrupted" else nullcontext():
            self._recorder.summary(summary)
            self._recorder.model(state.global_model, list(self._identity.item_ids), state.run)
            self._recorder.close()
            self._observers.close(status)
        return summary
