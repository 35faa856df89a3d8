"""The Flower strategy of federated recommendation: one message a node, one update a user, one rule, one step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from data import draws
from data.draws import Stream
from protocol.admission import Limits, UnreadableError
from protocol.messages import model_record, read_counts, request_content
from protocol.requests import EvaluateRequest, GlobalModel, LossOptions, TrainRequest
from strategies.intake import Intake, size_of, take_in
from strategies.population import Population
from strategies.rule import Aggregate, Rule, ServerView
from strategies.server_model import ServerModel


@dataclass(frozen=True)
class Settings:
    """What stays the same in all rounds.

    ``run``: the name under which nodes keep private state; ``counts``: the lengths of the counts that an
    evaluation returns, by name; ``min_updates``: a round with fewer valid updates leaves the model as it
    is; ``eval_users``: how many benign users an evaluation asks, 0 for all.
    """

    run: str
    seed: int
    clients_per_round: int
    loss: LossOptions
    counts: Mapping[str, int]
    max_examples: int = 1_000_000
    min_updates: int = 1
    eval_users: int = 0


@dataclass(frozen=True)
class RoundOutcome:
    """How one round went: what came in, and what the rule made of it (``None``: too little, the model stayed)."""

    server_round: int
    asked: int
    intake: Intake
    aggregate: Aggregate | None
    bytes_down: int


class FedRec(Strategy):
    """Trains a model whose users upload gradients, under any robust rule.

    ``model`` is the global model after the last round, ``outcome`` says how that round went.
    """

    def __init__(self, model: ServerModel, population: Population, rule: Rule, settings: Settings) -> None:
        self.model = model
        self.population = population
        self.rule = rule
        self.settings = settings
        self.outcome: RoundOutcome | None = None
        self._asked: dict[int, Tensor] = {}
        self._bytes_down = 0

    def summary(self) -> None:
        """Nothing to print: the recorder writes what there is to know."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to each node that hosts some of the round's cohort."""
        settings = self.settings
        cohort = self.population.cohort(settings.seed, server_round, settings.clients_per_round)
        self._asked = self.population.by_node(cohort)
        messages = []
        for node, users in self._asked.items():
            request = TrainRequest(server_round, users, settings.run, settings.loss)
            messages.append(_message(request_content(arrays, request), node, "train", server_round))
        self._bytes_down = sum(size_of(message.content) for message in messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the rule combine the updates that pass admission, and step the model by the outcome."""
        intake = take_in(replies, server_round, {node: self._limits(users) for node, users in self._asked.items()})
        aggregate = None
        if intake.updates is not None and len(intake.updates) >= self.settings.min_updates:
            generator = draws.generator(self.settings.seed, Stream.RULE, server_round)
            view = ServerView(server_round, self.model, self.settings.clients_per_round, generator)
            aggregate = self.rule.aggregate(intake.updates, view)
            self.model = self.model.step(aggregate.gradient)
        asked = sum(len(users) for users in self._asked.values())
        self.outcome = RoundOutcome(server_round, asked, intake, aggregate, self._bytes_down)
        return self.arrays(), MetricRecord({"num-updates": len(intake.losses)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to each node that hosts a benign user."""
        settings, nobody = self.settings, torch.empty(0, dtype=torch.int64)
        asked = dict.fromkeys(self.population.honest_nodes.tolist(), nobody)
        if settings.eval_users:
            generator = draws.generator(settings.seed, Stream.EVALUATED_USERS)
            asked = self.population.by_node(self.population.sample_honest(settings.eval_users, generator))
        for node, users in asked.items():
            request = EvaluateRequest(server_round, users, settings.run, settings.loss)
            yield _message(request_content(arrays, request), node, "evaluate", server_round)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord:
        """The nodes' counts, added up: lists by name."""
        totals = {name: torch.zeros(length, dtype=torch.int64) for name, length in self.settings.counts.items()}
        for reply in replies:
            if reply.has_error():
                continue
            try:
                counts = read_counts(reply.content, self.settings.counts)
            except UnreadableError:
                continue
            for name in totals:
                totals[name] += counts[name]
        return MetricRecord({name: counts.tolist() for name, counts in totals.items()})

    def arrays(self) -> ArrayRecord:
        """The global model as clients get it."""
        return model_record(GlobalModel(self.model.items, self.model.shared))

    def _limits(self, users: Tensor) -> Limits:
        num_items, dim = self.model.items.shape
        return Limits(users, num_items, dim, len(self.model.shared), self.settings.max_examples)


def _message(content: RecordDict, node: int, kind: str, server_round: int) -> Message:
    return Message(content, node, kind, group_id=str(server_round))
