"""Robust rules for any Flower app: a strategy around one of Flower's own, for clients that return weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

import draws
from draws import Stream
from models import ITEM_ROWS
from protocol.admission import UnreadableError
from protocol.foreign_text import shown
from protocol.updates import Gradient, Updates, make_updates, splits_of
from protocol.weights import Layout, Weights
from settings.options import OptionError, Scalar
from strategies.chain import compose, links
from strategies.rule import Aggregate, Combiner, Mean, NobodyLeftError, Rule, ServerView, Verdict, Wrapper
from strategies.server_model import ServerModel

Record = TypeVar("Record")

MANY = 1 << 20


class Robust(Strategy):
    """Lets a rule judge the clients' updates before the wrapped strategy aggregates them.

    ``rule``: a chain as in the option ``defense`` ("nnm+multi-krum"), with the rules' ``options`` under their usual
    names. It may assume ⌈clients · ``malicious_fraction``⌉ attackers among those who answer. ``item_table`` names the
    array whose rows are items, for the rules that look at items. An answer counts if it has the model's arrays, finite,
    and a number of examples from 1 to ``max_examples``; nobody weighs more than ``weight_bound`` times the median
    number of examples (0: no bound).

    Whoever passes goes on to the wrapped strategy as an ordinary reply. A rule that combines all updates to one sets
    every reply to its result. Metrics of the round say who was rejected and dropped, as ``robust-…``. Raises
    ``OptionError`` for a rule that needs what the app does not have.
    """

    def __init__(
        self,
        strategy: Strategy,
        rule: str,
        *,
        item_table: str = "",
        malicious_fraction: float = 0.2,
        options: Mapping[str, Scalar] | None = None,
        max_examples: int = 1_000_000,
        weight_bound: float = 2.0,
        seed: int = 0,
    ) -> None:
        self.strategy = strategy
        self.rule = rule
        self.item_table = item_table
        self.malicious_fraction = malicious_fraction
        self.options = dict(options or {})
        self.max_examples = max_examples
        self.weight_bound = weight_bound
        self.seed = seed
        self.verdicts: tuple[Verdict, ...] = ()
        self.rejected: dict[int, str] = {}
        self._weights: Weights = {}
        self._layout = Layout({}, {})
        self._state: dict[str, Any] = {}
        # What is wrong with the chain shows before the first round.
        for link in links(self._chain(0)):
            fits = not link.needs or (link.needs == ITEM_ROWS and bool(item_table))
            if not fits:
                hint = (
                    "Name the array whose rows are items as item_table." if link.needs == ITEM_ROWS else "Leave it out."
                )
                raise OptionError(
                    f"rule = {rule!r}: {link.name} needs {link.needs}, which this app does not have. {hint}"
                )

    def summary(self) -> None:
        """Log the rule, and the wrapped strategy's summary."""
        log(INFO, "\t├──> Robust: %s, at most %d examples a client", self.rule, self.max_examples)
        self.strategy.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The wrapped strategy's messages; remembers the arrays that updates count from."""
        self._weights = {name: array.numpy() for name, array in arrays.items()}
        self._layout = Layout.of(self._weights, self.item_table)
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The wrapped strategy's messages."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit the replies, let the rule judge them, and hand on what it leaves."""
        errors, answers = self._admitted(replies, with_arrays=True)
        self.verdicts = ()
        left, counts = self._judged(server_round, answers) if answers else ([], {})
        arrays, metrics = self.strategy.aggregate_train(server_round, [*left, *errors])
        return self._layout.in_kind(arrays), _with_counts(metrics, {"robust-rejected": len(self.rejected), **counts})

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The wrapped strategy's metrics, of the replies whose numbers can be believed."""
        errors, answers = self._admitted(replies, with_arrays=False)
        return self.strategy.aggregate_evaluate(server_round, [*(answer.reply for answer in answers), *errors])

    def _admitted(self, replies: Iterable[Message], with_arrays: bool) -> tuple[list[Message], list[Answer]]:
        """Replies that are errors, and those that can be used, in ascending order of their nodes."""
        ordered = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        errors = [reply for reply in ordered if reply.has_error()]
        told = [reply for reply in ordered if not reply.has_error()]
        usual = Counter(_metric_names(reply) for reply in told).most_common(1)
        self.rejected, answers = {}, []
        for reply in told:
            node = reply.metadata.src_node_id
            try:
                answers.append(self._read(reply, usual[0][0], with_arrays))
            except UnreadableError as error:
                self.rejected[node] = shown(str(error))
            except Exception as error:
                # A hole in the checks: worth a line of its own, not worth the run.
                self.rejected[node] = shown(f"unreadable: {type(error).__name__}")
            if node in self.rejected:
                log(WARNING, "Robust: rejected node %d: %s", node, self.rejected[node])
        return errors, answers

    def _read(self, reply: Message, usual: frozenset[str], with_arrays: bool) -> Answer:
        metrics = _only(reply.content.metric_records, "MetricRecord")
        if _metric_names(reply) != usual:
            raise UnreadableError("other metrics than the other clients'")
        for name, value in metrics.items():
            numbers = value if isinstance(value, list) else [value]
            if not all(math.isfinite(number) for number in numbers):
                raise UnreadableError(f"metric {name!r} is not finite")
        examples = metrics.get(self._weight)
        if not isinstance(examples, int | float) or not 1 <= examples <= self.max_examples:
            raise UnreadableError(f"{self._weight} = {examples}, expected a number from 1 to {self.max_examples}")
        record = _only(reply.content.array_records, "ArrayRecord") if with_arrays else None
        return Answer(reply, int(examples), {} if record is None else self._layout.read(record))

    @property
    def _weight(self) -> str:
        return str(getattr(self.strategy, "weighted_by_key", "num-examples"))

    def _judged(self, server_round: int, answers: list[Answer]) -> tuple[list[Message], dict[str, float]]:
        """The replies that the rule leaves, and numbers about its verdicts."""
        layout = self._layout
        origin = layout.model(self._weights)
        updates = _updates(answers, layout, origin.items, origin.shared)
        rule, behind = _with_end(self._chain(len(answers)))
        model = ServerModel.start(origin.items, origin.shared, 1.0, 0.0, optimizer="sgd")
        view = ServerView(server_round, model, len(answers), draws.generator(self.seed, Stream.RULE, server_round))
        if self._state:
            rule.restore(self._state)
        result: Aggregate | None = None
        try:
            result = rule.aggregate(updates, view)
            self.verdicts = result.verdicts
        except NobodyLeftError as error:
            log(WARNING, "Robust: %s, and the model stays as it is", error)
            self.verdicts = error.verdicts
        self._state = rule.state()
        counts = {f"robust-{verdict.rule}-dropped": float((~verdict.kept).sum()) for verdict in self.verdicts}
        if result is None:
            return [], counts
        counters = _median_counters(answers, layout)
        if behind is None:
            combined = layout.moved(self._weights, result.gradient.items, result.gradient.shared, counters)
            made = [self._reply(answer, combined, self._bounded(answer.examples, updates)) for answer in answers]
            return made, counts
        left = behind.seen
        plain = left.weighted_mean(len(origin.items))
        # What a rule did to the outcome after the mean: FLAME's noise.
        extra = Gradient(result.gradient.items - plain.items, result.gradient.shared - plain.shared)
        changed = bool(extra.items.any()) or bool(extra.shared.any())
        made = []
        for k, user in enumerate(left.users.tolist()):
            answer, own = answers[user], left.select(torch.tensor([k]))
            if not changed and _same(own, updates.select(torch.tensor([user]))):
                arrays = _with_counters(answer, counters)
            else:
                dense = own.weighted_mean(len(origin.items))
                arrays = layout.moved(self._weights, dense.items + extra.items, dense.shared + extra.shared, counters)
            made.append(self._reply(answer, arrays, self._bounded(int(own.num_examples), updates)))
        return made, counts

    def _chain(self, clients: int) -> Rule:
        """The rule for so many clients. Composed for many more: each rule lowers what it assumes by itself."""
        assumed = math.ceil(round(clients * self.malicious_fraction, 9))
        return compose(self.rule, self.options, MANY, assumed / MANY)

    def _bounded(self, examples: int, updates: Updates) -> int:
        if not self.weight_bound:
            return examples
        return min(examples, max(int(self.weight_bound * float(updates.num_examples.double().quantile(0.5))), 1))

    def _reply(self, answer: Answer, arrays: ArrayRecord, examples: int) -> Message:
        """A client's reply with other arrays and another number of examples."""
        content = answer.reply.content
        parts: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = dict(content.items())
        (metric_name,) = content.metric_records
        # A record of its own: some of Flower's strategies take the arrays out of it.
        parts[next(iter(content.array_records))] = ArrayRecord(dict(arrays))
        if examples != answer.examples:
            parts[metric_name] = MetricRecord({**dict(content.metric_records[metric_name]), self._weight: examples})
        answer.reply.content = RecordDict(parts)
        return answer.reply


@dataclass(frozen=True)
class Answer:
    """One client's reply that passed: the ``examples`` it claims, and its ``weights`` by name."""

    reply: Message
    examples: int
    weights: Weights


class _End(Combiner):
    """The mean at a chain's end, which keeps the updates that it saw: the wrapped strategy aggregates them itself."""

    name = "mean"
    seen: Updates

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        self.seen = updates
        return updates.weighted_mean(len(server.model.items))


def _with_end(chain: Rule) -> tuple[Rule, _End | None]:
    """The chain with another mean at its end; ``None`` where it ends in a rule that combines by itself."""
    rules = list(links(chain))
    if not isinstance(rules[-1], Mean):
        return chain, None
    end = _End()
    if len(rules) == 1:
        return end, end
    last = rules[-2]
    assert isinstance(last, Wrapper)
    last.inner = end
    return chain, end


def _updates(answers: list[Answer], layout: Layout, items: Tensor, shared: Tensor) -> Updates:
    """Each client's difference to the global weights; of the item table the rows that changed."""
    sent = [layout.model(answer.weights) for answer in answers]
    changes = [part.items - items for part in sent]
    touched = [change.abs().sum(1).nonzero().flatten() for change in changes]
    return make_updates(
        users=torch.arange(len(answers)),
        num_examples=torch.tensor([answer.examples for answer in answers]),
        row_splits=splits_of(torch.tensor([len(rows) for rows in touched])),
        items=torch.cat(touched),
        rows=torch.cat([change[rows] for change, rows in zip(changes, touched, strict=True)]),
        shared=torch.stack([part.shared - shared for part in sent]),
    )


def _same(one: Updates, other: Updates) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("items", "rows", "shared", "l2_share")
    )


def _median_counters(answers: list[Answer], layout: Layout) -> Weights:
    """The arrays of whole numbers: the median of what clients sent, so that none of them decides."""
    found = {}
    for name in layout.counters:
        values = np.sort(np.stack([answer.weights[name] for answer in answers]), axis=0)
        found[name] = values[len(answers) // 2]
    return found


def _with_counters(answer: Answer, counters: Weights) -> ArrayRecord:
    (record,) = answer.reply.content.array_records.values()
    return ArrayRecord(
        {name: Array(np.asarray(counters[name])) if name in counters else record[name] for name in record}
    )


def _metric_names(reply: Message) -> frozenset[str]:
    return frozenset(name for record in reply.content.metric_records.values() for name in record)


def _only(records: Mapping[str, Record], kind: str) -> Record:
    if len(records) != 1:
        raise UnreadableError(f"{len(records)} records of kind {kind}, expected one")
    return next(iter(records.values()))


def _with_counts(metrics: MetricRecord | None, counts: Mapping[str, float]) -> MetricRecord:
    return MetricRecord({**dict(metrics or {}), **counts})
