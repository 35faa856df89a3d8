"""The Flower strategy of federated recommendation: one message a node, one update a user, one rule, one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from logging import INFO, WARNING
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from metrics.counting import users_counted
from protocol.messages import read_model
from server.evaluation import add_up, evaluate, evaluate_messages, evaluated, metrics_by_part
from server.grids.direct_grid import DirectGrid
from server.journal import Journal
from server.outcome import Counted, RoundOutcome
from server.recovery.interrupts import StoppedError, finishing_rounds
from server.requests import Asked, cohort, train_messages
from server.results.status import Ending, ending
from server.round import admit, defend, stepped, train_round
from server.run_settings import RunSettings
from server.state import RunState


@dataclass
class TrainingResult(Result):
    """Flower's result, without a record a round; ``summary``: what ``summary.json`` says of the run's results."""

    summary: dict[str, Any] = field(default_factory=dict)


class FedRec(Strategy):
    """Trains a model whose users upload gradients, under any robust rule.

    ``state`` is the run after its last complete round, ``outcome`` says how that round went, and ``counted`` what the
    last evaluation counted. ``start`` trains and keeps the run in its ``journal``. The other methods are Flower's parts
    of a round, for a loop of one's own or a strategy around this one.
    """

    def __init__(self, state: RunState, settings: RunSettings, journal: Journal | None = None) -> None:
        self.state = state
        self.settings = settings
        self.outcome: RoundOutcome | None = None
        self.counted: Counted | None = None
        self._journal = journal or Journal()
        self._asked: Asked = {}
        self._sent: list[Message] = []
        self._warned = set[int]()
        self._told_unknown = False
        self._began = time.monotonic()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> TrainingResult:
        """Train to the last round, and evaluate on the way.

        What is not given is what the state and the settings say. ``evaluate_fn`` is asked whenever the nodes are.
        Raises ``StorageError`` where results cannot be written, ``KeyboardInterrupt`` after Ctrl-C, ``StoppedError``
        where a deployed run was stopped.
        """
        given: dict[str, Any] = {"num_rounds": num_rounds, "round_timeout": timeout}
        given |= {"train_config": train_config, "evaluate_config": evaluate_config}
        self.settings = replace(self.settings, **{name: value for name, value in given.items() if value is not None})
        if initial_arrays is not None:
            self._adopt(initial_arrays)
        self.summary()
        self._began = time.monotonic() - self.state.tally.elapsed
        result, ended = TrainingResult(), Ending("interrupted")
        try:
            self._journal.begin(self.state)
            if not self.state.round:
                self.state = self._journal.checkpoint(self.state)
            with _until_asked(grid) as asked_to_stop:
                while self.state.round < self.settings.num_rounds:
                    self._step(grid, result, evaluate_fn)
                    if asked_to_stop() and self.state.round < self.settings.num_rounds:
                        raise KeyboardInterrupt
            ended = ending(self.state.tally, self.settings.selection)
        except (KeyboardInterrupt, SystemExit, StoppedError):
            self._journal.interrupted(self._timed(self.state))
            raise
        finally:
            result.summary = self._end(ended)
        result.arrays = self.state.arrays
        return result

    def _step(
        self,
        grid: Grid,
        result: TrainingResult,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None,
    ) -> None:
        """One round, and what is due after it."""
        settings, before = self.settings, self.state
        state, outcome = train_round(before, grid, settings)
        state = replace(state, tally=state.tally.plus(outcome))
        self._tell(outcome)
        last, line = state.round == settings.num_rounds, None
        if last or state.round % settings.eval_every == 0:
            began = time.perf_counter()
            counted = evaluate(state, grid, settings)
            self._tell_failures(state.round, counted.failed)
            line = self._line(state, outcome, counted, time.perf_counter() - began)
            state = replace(state, tally=state.tally.evaluated(line, counted))
            self._tell_unknown(state, counted)
            result.evaluate_metrics_clientapp[state.round] = _record(line)
            found = evaluate_fn(state.round, state.arrays) if evaluate_fn else None
            if found is not None:
                result.evaluate_metrics_serverapp[state.round] = found
        self._journal.round(before, outcome, line)
        self.state, self.outcome = state, outcome
        self.state = self._journal.checkpoint(self._timed(state), due=last)

    def _line(self, state: RunState, outcome: RoundOutcome, counted: Counted, seconds: float) -> dict[str, Any]:
        return {
            "round": state.round,
            **metrics_by_part(state, counted, self.settings),
            "loss": outcome.intake.mean_loss,
            "of_users": counted.of_users,
            "counted": users_counted(self.settings.metrics, counted.totals),
            "failed_nodes": {str(node): reason for node, reason in counted.failed.items()},
            "seconds": round(time.monotonic() - self._began, 3),
            "evaluation_seconds": round(seconds, 3),
        }

    def _tell(self, outcome: RoundOutcome) -> None:
        self._tell_failures(outcome.server_round, outcome.intake.failed)
        if outcome.skipped:
            log(WARNING, "Round %d is skipped: %s.", outcome.server_round, outcome.skipped)
        for node in outcome.quarantined:
            offences = self.settings.quarantine_after
            log(WARNING, "Node %d is not asked any more: %d rounds in a row with an offence.", node, offences)

    def _tell_unknown(self, state: RunState, counted: Counted) -> None:
        """Say once that an evaluation has no value, and why."""
        selection, last = self.settings.selection, state.tally.evaluations[-1]
        if self._told_unknown or not selection.name or selection.value(last) is not None:
            return
        self._told_unknown = True
        log(WARNING, "The evaluation after round %d is unknown: %s.", state.round, _why_unknown(counted))

    def _tell_failures(self, server_round: int, failed: Mapping[int, str]) -> None:
        """Say of each node once that it failed: a run goes on without it, and could seem to have gone well."""
        for node, reason in failed.items():
            if node not in self._warned:
                log(WARNING, "Node %d failed in round %d: %s", node, server_round, reason)
        self._warned.update(failed)

    def _timed(self, state: RunState) -> RunState:
        return replace(state, tally=replace(state.tally, elapsed=time.monotonic() - self._began))

    def _end(self, ended: Ending) -> dict[str, Any]:
        self.state = self._timed(self.state)
        tally = self.state.tally
        if tally.failures:
            log(WARNING, "%d answers of nodes failed: see failed_nodes in rounds.jsonl.", tally.failures)
        quarantined = {str(node): since for node, since in self.state.quarantined.items()}
        if ended.reason:
            log(WARNING, "This run's status is %r. %s", ended.status, ended.reason)
        reason = {"reason": ended.reason} if ended.reason else {}
        summary = {**reason, **tally.summary(self.settings.selection), "quarantined": quarantined}
        return self._journal.end(ended.status, self.state, summary)

    def summary(self) -> None:
        """Say in a line who takes part; all else is in the run's record."""
        users, nodes = len(self.settings.population.users), self.settings.population.node_digests.total()
        where = "1 node" if nodes == 1 else f"{nodes} nodes"
        log(INFO, "%d users on %s, %d a round.", users, where, self.settings.clients_per_round)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to each node that hosts some of the next round's cohort."""
        self._adopt(arrays)
        self._asked = cohort(self.state, self.settings)
        self._sent = train_messages(self.state, self._asked, replace(self.settings, train_config=config))
        return self._sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the rule combine the updates that pass admission, and step the model by the outcome."""
        intake = admit(self.state, self._asked, replies, self.settings)
        defended = defend(self.state, intake, self.settings)
        self.state, self.outcome = stepped(self.state, self._asked, intake, defended, self.settings)
        self.state = replace(self.state, tally=self.state.tally.plus(self.outcome))
        return self.state.arrays, MetricRecord({"num-updates": len(self.outcome.intake.losses)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to each node that hosts a benign user; none where nodes have nothing to count."""
        self._asked = evaluated(self.state, self.settings)
        self._sent = evaluate_messages(self.state, self._asked, replace(self.settings, evaluate_config=config))
        return self._sent

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The metrics of all nodes' counts together."""
        self.counted = add_up(self.state, self._asked, self._sent, replies, self.settings)
        return _record(metrics_by_part(self.state, self.counted, self.settings))

    def _adopt(self, arrays: ArrayRecord) -> None:
        """Train on from these arrays, where they are others than those of the state."""
        if arrays is not self.state.arrays:
            given = read_model(RecordDict({"model": arrays}))
            model = replace(self.state.model, items=given.items, shared=given.shared)
            self.state = replace(self.state, model=model)


def _record(metrics: Mapping[str, Any]) -> MetricRecord:
    """Metrics by part as Flower's, named ``valid-hr@5``, …"""
    parts = {part: metrics[part] for part in ("valid", "test") if part in metrics}
    named = {f"{part}-{name}": value for part, found in parts.items() for name, value in found.items()}
    return MetricRecord({name: value for name, value in named.items() if value is not None})


def _why_unknown(counted: Counted) -> str:
    if counted.of_users:
        return "none of the users asked has an item to be evaluated with (three interactions are needed)"
    if counted.failed:
        node, reason = min(counted.failed.items())
        return f"no node answered it (node {node}: {reason})"
    return "there is no benign user to ask"


def _until_asked(grid: Grid) -> AbstractContextManager[Callable[[], bool]]:
    # A deployed run is not asked: see ``ending_at_once``.
    return finishing_rounds() if isinstance(grid, DirectGrid) else nullcontext(lambda: False)
