"""The Flower strategy of federated recommendation: one message a node, one update a user, one rule, one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

import draws
from draws import Stream
from protocol.admission import Limits, UnreadableError
from protocol.messages import model_record, read_counts, reply_size, request_content, size_of
from protocol.requests import EvaluateRequest, GlobalModel, LossOptions, TrainRequest
from protocol.upload_dtype import UploadDtype
from strategies.cohort_bounds import Bounded, bounded
from strategies.intake import Intake, shown, take_in
from strategies.population import Population
from strategies.rule import Aggregate, Rule, ServerView
from strategies.server_model import ServerModel


@dataclass(frozen=True)
class Settings:
    """What stays the same in all rounds.

    ``run``: the name under which nodes keep private state; ``counts``: the lengths of the counts that an
    evaluation returns, by name; ``value_bound``: see ``cohort_bounds``; ``min_updates``: a round with fewer valid
    updates leaves the model as it is; ``eval_users``: how many benign users an evaluation asks, 0 for all;
    ``quarantine_after``: a node that failed or had a user rejected in so many of its rounds in a row is not asked
    again, 0 for never; ``upload_dtype``: what updates travel in;
    ``accuracy``: of shared parameters (p,) on the server's validation set, where it has one;
    ``own_update``: what training on that set makes of them in a round, as a difference (p,).
    """

    run: str
    seed: int
    clients_per_round: int
    loss: LossOptions
    counts: Mapping[str, int]
    max_examples: int = 1_000_000
    value_bound: float = 0.0
    min_updates: int = 1
    eval_users: int = 0
    quarantine_after: int = 0
    upload_dtype: UploadDtype = "float32"
    accuracy: Callable[[Tensor], float] | None = None
    own_update: Callable[[Tensor, int], Tensor] | None = None


@dataclass(frozen=True)
class Traffic:
    """Bytes of arrays to the nodes, and of all that came from them."""

    down: int
    up: int


@dataclass(frozen=True)
class RoundOutcome:
    """How one round went: what came in, and what the rule made of it (``None``: nothing, the model stayed).

    ``skipped`` says why the model stayed; ``quarantined``: the nodes that are not asked from now on; ``within``: the
    updates as the rule saw them.
    """

    server_round: int
    asked: int
    intake: Intake
    aggregate: Aggregate | None
    bytes_down: int
    skipped: str = ""
    quarantined: tuple[int, ...] = ()
    within: Bounded | None = None


class FedRec(Strategy):
    """Trains a model whose users upload gradients, under any robust rule.

    ``model`` is the global model after the last round, ``outcome`` says how that round went;
    ``failed_evaluation``: which nodes gave no counts in the last evaluation, and why. ``offences``: for each node in
    how many rounds in a row it failed or had a user rejected; ``quarantined``: who is not asked any more.
    ``resumed_at`` and ``keep_from``: what nodes are told of checkpoints (see ``TrainRequest``). ``evaluation_bytes``:
    of the last evaluation; ``evaluation_users``: of how many users it is, by what the server knows of the nodes that
    answered.
    """

    def __init__(self, model: ServerModel, population: Population, rule: Rule, settings: Settings) -> None:
        self.model = model
        self.population = population
        self.rule = rule
        self.settings = settings
        self.outcome: RoundOutcome | None = None
        self.failed_evaluation: dict[int, str] = {}
        self.offences: dict[int, int] = {}
        self.quarantined: set[int] = set()
        self.resumed_at: tuple[int, ...] = ()
        self.keep_from = 0
        self._asked: dict[int, Tensor] = {}
        self._evaluated: dict[int, Tensor] = {}
        self._bytes_down = 0
        self.evaluation_bytes = Traffic(0, 0)
        self.evaluation_users = 0
        self._arrays: tuple[ServerModel, ArrayRecord] | None = None

    def summary(self) -> None:
        """Nothing to print: the recorder writes what there is to know."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to each node that hosts some of the round's cohort."""
        settings = self.settings
        cohort = self.population.cohort(settings.seed, server_round, settings.clients_per_round)
        self._asked = self._without_quarantined(self.population.by_node(cohort))
        requests = {
            node: TrainRequest(
                server_round,
                users,
                settings.run,
                settings.loss,
                self.resumed_at,
                self.keep_from,
                settings.upload_dtype,
            )
            for node, users in self._asked.items()
        }
        return self._messages(requests, arrays, "train")

    def _messages(
        self, requests: Mapping[int, TrainRequest | EvaluateRequest], arrays: ArrayRecord, kind: str
    ) -> list[Message]:
        messages = [
            Message(request_content(arrays, request), node, kind, group_id=str(request.server_round))
            for node, request in requests.items()
        ]
        self._bytes_down = sum(size_of(message.content) for message in messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the rule combine the updates that pass admission, and step the model by the outcome."""
        limits = {node: self._limits(users) for node, users in self._asked.items()}
        intake = take_in(replies, server_round, limits)
        count = 0 if intake.updates is None else len(intake.updates)
        within = None
        aggregate, skipped = None, f"{count} valid updates, fewer than min-updates = {self.settings.min_updates}"
        if intake.updates is not None and count >= self.settings.min_updates:
            generator = draws.generator(self.settings.seed, Stream.RULE, server_round)
            settings = self.settings
            own = settings.own_update
            view = ServerView(
                server_round,
                self.model,
                settings.clients_per_round,
                generator,
                accuracy=settings.accuracy,
                own_update=None if own is None else partial(own, self.model.shared, server_round),
            )
            within = bounded(intake.updates, settings.value_bound, self.model)
            aggregate, skipped = self.rule.aggregate(within.updates, view), ""
            stepped = self.model.step(aggregate.gradient)
            if stepped.is_finite():
                self.model = stepped
            else:
                aggregate, skipped = None, "the rule made a gradient that is not finite"
        asked = sum(len(users) for users in self._asked.values())
        quarantined = self._note_offences(intake)
        self.outcome = RoundOutcome(
            server_round, asked, intake, aggregate, self._bytes_down, skipped, quarantined, within
        )
        return self.arrays(), MetricRecord({"num-updates": len(intake.losses)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to each node that hosts a benign user; none where nodes have nothing to count."""
        settings, nobody = self.settings, torch.empty(0, dtype=torch.int64)
        if not settings.counts:
            self._evaluated, self._bytes_down = {}, 0
            return []
        asked = dict.fromkeys(self.population.honest_nodes.tolist(), nobody)
        if settings.eval_users:
            generator = draws.generator(settings.seed, Stream.EVALUATED_USERS)
            asked = self.population.by_node(self.population.sample_honest(settings.eval_users, generator))
        self._evaluated = self._without_quarantined(asked)
        requests = {
            node: EvaluateRequest(server_round, users, settings.run, settings.loss, self.resumed_at, self.keep_from)
            for node, users in self._evaluated.items()
        }
        return self._messages(requests, arrays, "evaluate")

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord:
        """The nodes' counts, added up: lists by name. A node cannot count more users than it was asked for."""
        expected = self.settings.counts
        totals = {name: torch.zeros(length, dtype=torch.int64) for name, length in expected.items()}
        failed = dict.fromkeys(self._evaluated, "no answer")
        up, of_users = 0, 0
        for reply in replies:
            node = reply.metadata.src_node_id
            if node not in failed:
                continue
            if reply.has_error():
                failed[node] = shown(f"error {reply.error.code}: {reply.error.reason}")
                continue
            most = len(self._evaluated[node]) or self.population.hosted_by(node)
            try:
                counts = read_counts(reply.content, expected, server_round, most)
                sent = reply_size(reply.content)
            except UnreadableError as error:
                failed[node] = shown(f"unreadable: {error}")
                continue
            del failed[node]
            up += sent
            of_users += most
            for name in totals:
                totals[name] += counts[name]
        self.failed_evaluation = failed
        self.evaluation_bytes, self.evaluation_users = Traffic(self._bytes_down, up), of_users
        return MetricRecord({name: counts.tolist() for name, counts in totals.items()})

    def arrays(self) -> ArrayRecord:
        """The global model as clients get it; made once for each model."""
        if self._arrays is None or self._arrays[0] is not self.model:
            self._arrays = (self.model, model_record(GlobalModel(self.model.items, self.model.shared)))
        return self._arrays[1]

    def _limits(self, users: Tensor) -> Limits:
        num_items, dim = self.model.items.shape
        settings = self.settings
        return Limits(users, num_items, dim, len(self.model.shared), settings.max_examples, settings.upload_dtype)

    def _without_quarantined(self, asked: dict[int, Tensor]) -> dict[int, Tensor]:
        return {node: users for node, users in asked.items() if node not in self.quarantined}

    def _note_offences(self, intake: Intake) -> tuple[int, ...]:
        """Count each asked node's rounds with an offence in a row; returns those that are quarantined for it."""
        for node in self._asked:
            self.offences[node] = self.offences.get(node, 0) + 1 if node in intake.offenders else 0
        limit = self.settings.quarantine_after
        caught = tuple(node for node in self._asked if limit and self.offences[node] >= limit)
        self.quarantined.update(caught)
        return caught
