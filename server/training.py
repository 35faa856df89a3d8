"""The round loop: sample, send, admit, defend, step; evaluate, record, go on."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from logging import INFO
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord
from flwr.common.logger import log
from flwr.serverapp import Grid

from data import load
from data.interactions import Interactions
from protocol.options import require
from protocol.requests import GlobalModel
from server.config import ServerConfig, effective
from server.exchange import exchange
from server.nodes import discover
from server.progress import Progress
from server.recorder import Recorder
from server.tasks import TASKS, Task
from strategies.detection import DetectionTally
from strategies.fedrec import FedRec, RoundOutcome, Settings
from strategies.population import Population
from strategies.server_model import ServerModel

NO_CONFIG = ConfigRecord()


@dataclass
class Tally:
    """What adds up over a run: time, bytes, detection, and the evaluations."""

    rounds: int = 0
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    updates: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    failures: int = 0
    skipped: int = 0
    detection: DetectionTally = field(default_factory=DetectionTally)
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, outcome: RoundOutcome, malicious: np.ndarray, seconds: float) -> None:
        """Count one round."""
        intake = outcome.intake
        self.rounds += 1
        self.seconds += seconds
        self.bytes_up += intake.num_bytes
        self.bytes_down += outcome.bytes_down
        self.updates += len(intake.losses)
        self.failures += len(intake.failed)
        for reason, count in intake.reasons.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count
        if outcome.aggregate is None:
            self.skipped += 1
        elif intake.updates is not None:
            examples = intake.updates.num_examples.numpy()
            self.detection.add(outcome.aggregate.verdicts, malicious, examples)


class Training:
    """One run from its first round to its summary."""

    def __init__(self, grid: Grid, config: ServerConfig, directory: Path, interactions: Interactions) -> None:
        options = config.options
        self._grid = grid
        self._config = config
        self._directory = directory
        self._item_ids = [str(item) for item in interactions.item_ids]
        self._task: Task = TASKS[options.model]
        population = discover(grid, options.min_nodes, options.node_timeout)
        require_cohort(options.clients_per_round, population)
        self._malicious = population.malicious_users
        first = self._task.initial(options, population.num_items)
        model = ServerModel.start(first.items, first.shared, options.learning_rate, options.weight_decay)
        settings = Settings(
            run=directory.name,
            seed=options.seed,
            clients_per_round=options.clients_per_round,
            loss=config.loss,
            counts=self._task.counts,
            max_examples=options.max_examples,
            min_updates=options.min_updates,
            eval_users=options.eval_users,
        )
        self._strategy = FedRec(model, population, config.rule(), settings)
        self._recorder = Recorder(directory, self._malicious)
        self._tally = Tally()

    def run(self) -> dict[str, Any]:
        """All rounds; returns the summary, which is also on disk, with the best round's and the last model."""
        options = self._config.options
        started = time.monotonic()
        self._recorder.config(effective(self._config))
        progress = Progress(self._directory.name, options.num_server_rounds)
        status = "interrupted"
        try:
            for server_round in range(1, options.num_server_rounds + 1):
                self._round(server_round)
                progress.advance(server_round)
                if server_round % options.eval_every == 0 or server_round == options.num_server_rounds:
                    line = self._evaluate(server_round, started)
                    progress.evaluated(server_round, {name: line["test"][name] for name in ("hr@5", "ndcg@5")})
            status = "completed"
        finally:
            progress.close()
            summary = self._summary(status, time.monotonic() - started)
            self._recorder.summary(summary)
            self._recorder.model(GlobalModel(self._strategy.model.items, self._strategy.model.shared), self._item_ids)
            self._recorder.close()
        return summary

    def _round(self, server_round: int) -> None:
        started = time.perf_counter()
        strategy = self._strategy
        messages = strategy.configure_train(server_round, strategy.arrays(), NO_CONFIG, self._grid)
        replies = exchange(self._grid, messages, self._config.options.round_timeout)
        strategy.aggregate_train(server_round, replies)
        seconds = time.perf_counter() - started
        outcome = strategy.outcome
        assert outcome is not None
        if outcome.aggregate is None:
            log(INFO, "Round %d is skipped: %s.", server_round, outcome.skipped)
        self._tally.add(outcome, self._malicious, seconds)
        self._recorder.round(outcome, seconds)

    def _evaluate(self, server_round: int, started: float) -> dict[str, Any]:
        began = time.perf_counter()
        strategy = self._strategy
        messages = strategy.configure_evaluate(server_round, strategy.arrays(), NO_CONFIG, self._grid)
        replies = exchange(self._grid, messages, self._config.options.round_timeout)
        counts = strategy.aggregate_evaluate(server_round, replies)
        outcome = strategy.outcome
        assert outcome is not None
        line = {
            "round": server_round,
            **self._task.metrics(counts),
            "loss": outcome.intake.mean_loss,
            "failed_nodes": {str(node): reason for node, reason in strategy.failed_evaluation.items()},
            "seconds": round(time.monotonic() - started, 3),
            "evaluation_seconds": round(time.perf_counter() - began, 3),
        }
        self._tally.evaluations.append(line)
        self._recorder.evaluation(line)
        return line

    def _summary(self, status: str, seconds: float) -> dict[str, Any]:
        tally = self._tally
        best = max(tally.evaluations, key=lambda line: line["valid"][self._task.selection], default=None)
        updates = max(tally.updates, 1)
        return {
            "status": status,
            "run": self._directory.name,
            "rounds": tally.rounds,
            "best_round": best["round"] if best else None,
            "valid": best["valid"] if best else None,
            "test": best["test"] if best else None,
            "test_last_five": last_five(tally.evaluations),
            "detection": {
                rule: {name: finite(value) for name, value in found.measures().items()}
                for rule, found in tally.detection.by_rule.items()
            },
            "excluded_by_interactions": [
                {"fewest": bucket.fewest, "most": bucket.most, "rate": finite(bucket.rate)}
                for bucket in tally.detection.buckets()
            ],
            "rejected": tally.rejected,
            "failed_answers": tally.failures,
            "skipped_rounds": tally.skipped,
            "seconds": round(seconds, 3),
            "rounds_per_second": round(tally.rounds / tally.seconds, 3) if tally.seconds else None,
            "bytes": {
                "up": tally.bytes_up,
                "down": tally.bytes_down,
                "up_per_round": tally.bytes_up // max(tally.rounds, 1),
                "down_per_round": tally.bytes_down // max(tally.rounds, 1),
                "up_per_update": tally.bytes_up // updates,
            },
        }


def run_training(grid: Grid, config: ServerConfig, directory: Path) -> dict[str, Any]:
    """Train as the configuration says; results in ``directory``. Returns the summary."""
    interactions = load(config.options.dataset, config.options.data_dir or None)
    log(INFO, "Results: %s", directory)
    summary = Training(grid, config, directory, interactions).run()
    log(INFO, "Results: %s", directory)
    return summary


def require_cohort(size: int, population: Population) -> None:
    """Refuse a cohort larger than the population."""
    users = len(population.users)
    require(size <= users, "clients-per-round", size, f"at most the {users} users that the nodes host")


def last_five(evaluations: list[dict[str, Any]]) -> dict[str, float] | None:
    """The mean of each test metric over the last five evaluations: steadier than one of them."""
    lines = [line["test"] for line in evaluations[-5:]]
    return {name: math.fsum(line[name] for line in lines) / len(lines) for name in lines[0]} if lines else None


def finite(value: float) -> float | None:
    """JSON has no NaN: a ratio without denominator is null."""
    return value if math.isfinite(value) else None
