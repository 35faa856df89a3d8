"""The round loop: sample, send, admit, defend, step; evaluate, record, go on."""

from __future__ import annotations

import json
import secrets
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message
from flwr.common.logger import log
from flwr.serverapp import Grid

from protocol.requests import GlobalModel, PopulationQuery
from server.config import ServerConfig, effective
from server.exchange import exchange
from server.grids.direct_grid import DirectGrid
from server.population.nodes import discover
from server.recovery.checkpoint import Checkpoint, Checkpoints
from server.recovery.interrupts import StoppedError, finishing_rounds
from server.recovery.resume import resumable
from server.results.progress import Progress
from server.results.recorder import Recorder
from server.results.run_directory import held
from server.results.storage import StorageError, storing
from server.results.tally import Tally
from server.results.trackers import make_tracker
from server.results.update_log import UpdateLog, parse_rounds
from server.tasks import TASKS, Task
from settings.options import OptionError, require
from strategies.fedrec import FedRec, Settings
from strategies.population import Population
from strategies.server_model import ServerModel

NO_CONFIG = ConfigRecord()
NOBODY = np.empty(0, np.int64)

FAREWELL = 20.0
"""Seconds that a deployed run gives the ServerApp of a SuperLink that has died to notice it and end."""


class Training:
    """One run from its first round to its summary."""

    def __init__(self, grid: Grid, config: ServerConfig, directory: Path, task: Task) -> None:
        options = config.options
        self._grid = grid
        self._config = config
        self._directory = directory
        self._item_ids = [str(item) for item in task.catalogue.item_ids]
        self._task = task
        first = task.first
        model = ServerModel.start(
            first.items, first.shared, options.learning_rate, options.weight_decay, task.optimizer
        )
        self._nodes = len(list(grid.get_node_ids())) if isinstance(grid, DirectGrid) else 0
        self._checkpoints = Checkpoints(directory, options.keep_checkpoints)
        found = resumable(self._checkpoints, config, directory, model, self._nodes) if options.resume else None
        expected = None if found is None else Counter[int](found.state["nodes_hosting"])
        # Nodes may keep state of an earlier run of the same name: the number tells the two apart.
        run = found.state["run"] if found else f"{directory.name}-{secrets.token_hex(4)}"
        resumed_at = () if found is None else (*self._checkpoints.resumes(), found.server_round)
        query = PopulationQuery(run, resumed_at)
        population = discover(grid, options.min_nodes, options.node_timeout, task.catalogue, expected, query)
        require_cohort(options.clients_per_round, population)
        self._population = fingerprint(population)
        self._hosting = sorted(population.marks.elements())
        self._malicious = population.malicious_users
        settings = Settings(
            run=run,
            seed=options.seed,
            clients_per_round=options.clients_per_round,
            loss=config.loss,
            counts=task.counts,
            max_examples=options.max_examples,
            min_updates=options.min_updates,
            eval_users=options.eval_users,
            quarantine_after=options.quarantine_after,
            upload_dtype=options.upload_dtype,
            accuracy=task.accuracy,
        )
        self._strategy = FedRec(found.model if found else model, population, config.rule(), settings)
        self._tally = Tally()
        self._done = 0
        self._whole = True
        self._warned: set[int] = set()
        if found is not None:
            self._go_on_from(found)
        with storing(directory):
            self._tracker = make_tracker(options.tracker, directory)
        positions = found.state["positions"] if found else None
        self._recorder = Recorder(directory, positions, self._tracker)
        self._update_log = UpdateLog(directory, parse_rounds(options.record_updates))

    def run(self) -> dict[str, Any]:
        """All rounds; returns the summary, which is also on disk, with the last model.

        Raises ``StorageError`` where results cannot be written, ``KeyboardInterrupt`` after Ctrl-C, ``StoppedError``
        where a deployed run was stopped.
        """
        options = self._config.options
        self._started = time.monotonic() - self._tally.elapsed
        progress = Progress(self._directory.name, options.num_server_rounds, self._done)
        status = "interrupted"
        try:
            self._recorder.config(effective(self._config))
            self._tracker.begin(effective(self._config), self._done)
            if not self._done:
                self._checkpoint(0)
            with self._until_asked() as asked_to_stop:
                for server_round in range(self._done + 1, options.num_server_rounds + 1):
                    self._step(server_round, progress, asked_to_stop)
            status = "completed"
        except (KeyboardInterrupt, SystemExit, StoppedError):
            if self._whole:
                self._checkpoint(self._tally.rounds)
            go_on = f"; go on with resume='{self._directory}'" if options.checkpoint_every else ""
            log(WARNING, "Stopped after round %d%s.", self._tally.rounds, go_on)
            raise
        finally:
            progress.close()
            summary = self._close(status)
        return summary

    def _step(self, server_round: int, progress: Progress, asked_to_stop: Callable[[], bool]) -> None:
        """One round and what is due after it. Raises ``KeyboardInterrupt`` where the run shall stop here."""
        options = self._config.options
        last = server_round == options.num_server_rounds
        self._round(server_round)
        progress.advance(server_round)
        if last or server_round % options.eval_every == 0:
            line = self._evaluate(server_round)
            progress.evaluated(server_round, {name: line["test"][name] for name in self._task.shown})
        self._whole = True
        if last or server_round % max(options.checkpoint_every, 1) == 0:
            self._checkpoint(server_round)
        if asked_to_stop() and not last:
            raise KeyboardInterrupt

    def _until_asked(self) -> AbstractContextManager[Callable[[], bool]]:
        # A deployed run is not asked: see ``ending_at_once``.
        return finishing_rounds() if isinstance(self._grid, DirectGrid) else nullcontext(lambda: False)

    def _close(self, status: str) -> dict[str, Any]:
        self._tally.elapsed = time.monotonic() - self._started
        found = self._tally.summary(self._task.selection)
        notice = {"notice": self._task.notice} if self._task.notice else {}
        summary = {"status": status, "run": self._directory.name, **notice, **found}
        if self._tally.failures:
            log(WARNING, "%d answers of nodes failed: see failed_nodes in rounds.jsonl.", self._tally.failures)
        # Where the disk is full, the error that says so is already on its way.
        with nullcontext() if status == "completed" else suppress(StorageError):
            self._recorder.summary(summary)
            model = GlobalModel(self._strategy.model.items, self._strategy.model.shared)
            self._recorder.model(model, self._item_ids, self._strategy.settings.run)
            self._recorder.close(status)
        return summary

    def _checkpoint(self, server_round: int) -> None:
        strategy = self._strategy
        if not self._config.options.checkpoint_every:
            return
        self._tally.elapsed = time.monotonic() - self._started
        state = {
            "run": strategy.settings.run,
            "options": effective(self._config),
            "nodes": self._nodes,
            "population": self._population,
            "nodes_hosting": self._hosting,
            "positions": self._recorder.positions(),
            "best": self._tally.best(self._task.selection),
            "tally": self._tally.as_state(),
            "offences": {str(node): count for node, count in strategy.offences.items()},
            "rule": strategy.rule.state(),
        }
        with storing(self._directory):
            self._checkpoints.write(Checkpoint(server_round, strategy.model, state))
            strategy.keep_from = self._checkpoints.oldest()

    def _go_on_from(self, found: Checkpoint) -> None:
        """Be as after the checkpoint's round. Raises ``OptionError`` where the nodes host other users than then."""
        state, strategy = found.state, self._strategy
        if state["population"] != self._population:
            raise OptionError("The nodes host other users than when the run was started: their state is elsewhere.")
        strategy.offences = {int(node): count for node, count in state["offences"].items()}
        strategy.quarantined = {int(node) for node in state["tally"]["quarantined"]}
        strategy.rule.restore(state["rule"])
        lines = (self._directory / "metrics.jsonl").read_bytes()[: state["positions"]["metrics.jsonl"]]
        self._tally = Tally.of_state(state["tally"], [json.loads(line) for line in lines.splitlines()])
        self._done = found.server_round
        strategy.resumed_at = (*self._checkpoints.resumes(), found.server_round)
        with storing(self._directory):
            self._checkpoints.forget_after(found.server_round)
            self._checkpoints.note_resumes(strategy.resumed_at)
            strategy.keep_from = self._checkpoints.oldest()
        log(INFO, "Resumed after round %d of %s.", found.server_round, self._directory)

    def _round(self, server_round: int) -> None:
        started = time.perf_counter()
        strategy = self._strategy
        if not self._config.options.checkpoint_every:
            strategy.keep_from = server_round - 1
        messages = strategy.configure_train(server_round, strategy.arrays(), NO_CONFIG, self._grid)
        replies = self._exchange(messages)
        # From here until the round is over, evaluation and all, a checkpoint would hold half of it.
        self._whole = False
        before = strategy.model
        strategy.aggregate_train(server_round, replies)
        seconds = time.perf_counter() - started
        outcome = strategy.outcome
        assert outcome is not None
        if outcome.aggregate is None:
            log(INFO, "Round %d is skipped: %s.", server_round, outcome.skipped)
        self._warn(server_round, outcome.intake.failed)
        attackers = self._malicious if self._config.is_attacked(server_round) else NOBODY
        self._tally.add(outcome, attackers, seconds)
        self._recorder.round(outcome, attackers, seconds)
        self._update_log.record(before, outcome, attackers)

    def _warn(self, server_round: int, failed: Mapping[int, str]) -> None:
        """Say of each node once that it failed: a run goes on without it, and could seem to have gone well."""
        for node, reason in failed.items():
            if node not in self._warned:
                log(WARNING, "Node %d failed in round %d: %s", node, server_round, reason)
        self._warned.update(failed)

    def _exchange(self, messages: Iterable[Message]) -> list[Message]:
        return exchange(self._grid, messages, self._config.options.round_timeout)

    def _evaluate(self, server_round: int) -> dict[str, Any]:
        began = time.perf_counter()
        strategy = self._strategy
        messages = strategy.configure_evaluate(server_round, strategy.arrays(), NO_CONFIG, self._grid)
        replies = self._exchange(messages)
        counts = strategy.aggregate_evaluate(server_round, replies)
        self._warn(server_round, strategy.failed_evaluation)
        outcome = strategy.outcome
        assert outcome is not None
        line = {
            "round": server_round,
            **self._task.metrics(counts, GlobalModel(strategy.model.items, strategy.model.shared)),
            "loss": outcome.intake.mean_loss,
            "of_users": strategy.evaluation_users,
            "failed_nodes": {str(node): reason for node, reason in strategy.failed_evaluation.items()},
            "seconds": round(time.monotonic() - self._started, 3),
            "evaluation_seconds": round(time.perf_counter() - began, 3),
        }
        self._tally.evaluations.append(line)
        self._tally.evaluation_down += strategy.evaluation_bytes.down
        self._tally.evaluation_up += strategy.evaluation_bytes.up
        self._recorder.evaluation(line)
        return line


def run_training(grid: Grid, config: ServerConfig, directory: Path) -> dict[str, Any]:
    """Train as the configuration says; results in ``directory``. Returns the summary."""
    task = TASKS[config.options.model](config)
    if task.notice:
        log(WARNING, task.notice)
    log(INFO, "Results: %s", directory)
    with held(directory, 0.0 if isinstance(grid, DirectGrid) else FAREWELL):
        summary = Training(grid, config, directory, task).run()
    log(INFO, "Results: %s", directory)
    return summary


def require_cohort(size: int, population: Population) -> None:
    """Refuse a cohort larger than the population."""
    users = len(population.users)
    require(size <= users, "clients-per-round", size, f"at most the {users} users that the nodes host")


def fingerprint(population: Population) -> dict[str, int]:
    """What tells another population apart: which users, who is malicious, and who shares a node, whatever its id."""
    _, first, place = np.unique(population.nodes, return_index=True, return_inverse=True)
    crc = 0
    for part in (population.users, population.malicious_users, first[place]):
        crc = zlib.crc32(part.astype(np.int64).tobytes(), crc)
    return {"users": len(population.users), "items": population.num_items, "crc": crc}
