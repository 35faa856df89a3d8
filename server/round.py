"""One round of federated training: who is asked, what is believed, what the rule makes of it, and the step."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import Tensor

import draws
from draws import Stream
from protocol.admission import Limits
from protocol.messages import request_content, size_of
from protocol.requests import EvaluateRequest, TrainRequest
from server.exchange import exchange
from server.intake import Intake, take_in
from server.outcome import NOBODY, RoundOutcome
from server.run_settings import RunSettings
from server.state import RunState
from strategies.rule import Aggregate, ServerView
from strategies.server_model import ServerModel

Asked = Mapping[int, Tensor]
"""The users (n,) that each node is asked for, by node id."""


def train_round(state: RunState, grid: Grid, settings: RunSettings) -> tuple[RunState, RoundOutcome]:
    """Train one round: sample a cohort, send it the model, and step the model by what comes back."""
    began = time.perf_counter()
    asked = cohort(state, settings)  # 1 who
    messages = train_messages(state, asked, settings)
    replies = exchange(grid, messages, settings.round_timeout)  # 2 ask
    after, outcome = learn(state, asked, replies, settings)
    bytes_down = sum(size_of(message.content) for message in messages)
    return after, replace(outcome, bytes_down=bytes_down, seconds=time.perf_counter() - began)


def learn(
    state: RunState, asked: Asked, replies: Iterable[Message], settings: RunSettings
) -> tuple[RunState, RoundOutcome]:
    """Step the model by the replies to a round's messages. Nothing that a reply holds raises."""
    server_round = state.round + 1
    limits = {node: _limits(users, state.model, settings) for node, users in asked.items()}
    intake = take_in(replies, server_round, limits)  # 3 believe nothing
    aggregate, rule, skipped = defend(state, intake, settings)  # 4 defend
    model = state.model
    if aggregate is not None:
        stepped = model.step(aggregate.gradient)  # 5 step
        if stepped.is_finite():
            model = stepped
        else:
            aggregate, skipped = None, "the rule made a gradient that is not finite"
    offences, caught = _offences(state, asked, intake, settings)
    users = sum(len(users) for users in asked.values())
    attackers = settings.population.malicious_users if settings.attacked(server_round) else NOBODY
    outcome = RoundOutcome(server_round, users, intake, aggregate, 0, skipped, caught, attackers)
    quarantined = {**state.quarantined, **dict.fromkeys(caught, server_round)}
    after = replace(state, round=server_round, model=model, rule=rule, offences=offences, quarantined=quarantined)
    return after, outcome


def cohort(state: RunState, settings: RunSettings) -> dict[int, Tensor]:
    """The next round's users by node, without those of nodes that are in quarantine."""
    population = settings.population
    users = population.cohort(settings.seed, state.round + 1, settings.clients_per_round)
    return {node: part for node, part in population.by_node(users).items() if node not in state.quarantined}


def train_messages(state: RunState, asked: Asked, settings: RunSettings) -> list[Message]:
    """One message to each node: the model, and which of its users shall train it."""
    server_round = state.round + 1
    requests = {
        node: TrainRequest(
            server_round, users, state.run, settings.loss, state.resumed_at, state.keep_from, settings.upload_dtype
        )
        for node, users in asked.items()
    }
    return as_messages("train", requests, state.arrays, settings.train_config)


def as_messages(
    kind: str,
    requests: Mapping[int, TrainRequest | EvaluateRequest],
    arrays: ArrayRecord,
    config: ConfigRecord | None,
) -> list[Message]:
    """Requests to nodes as Flower's messages, with what else a user of the strategy wants nodes to know."""
    messages = []
    for node, request in requests.items():
        content = request_content(arrays, request)
        if config:
            content["config"] = config
        messages.append(Message(content, node, kind, group_id=str(request.server_round)))
    return messages


def defend(
    state: RunState, intake: Intake, settings: RunSettings
) -> tuple[Aggregate | None, Mapping[str, object], str]:
    """What the rule makes of the updates that came in, and its state after it; or ``None``, and why."""
    updates, rule = intake.updates, settings.rule
    count = 0 if updates is None else len(updates)
    if updates is None or count < settings.min_updates:
        return None, state.rule, f"{count} valid updates, fewer than min-updates = {settings.min_updates}"
    server_round = state.round + 1
    generator = draws.generator(settings.seed, Stream.RULE, server_round)
    view = ServerView(server_round, state.model, settings.clients_per_round, generator, accuracy=settings.accuracy)
    if rule.state() != state.rule:
        rule.restore(copy.deepcopy(dict(state.rule)))
    aggregate = rule.aggregate(updates, view)
    return aggregate, copy.deepcopy(rule.state()), ""


def _limits(users: Tensor, model: ServerModel, settings: RunSettings) -> Limits:
    num_items, dim = model.items.shape
    return Limits(users, num_items, dim, len(model.shared), settings.max_examples, settings.upload_dtype)


def _offences(
    state: RunState, asked: Asked, intake: Intake, settings: RunSettings
) -> tuple[dict[int, int], tuple[int, ...]]:
    """Each node's rounds with an offence in a row, and the nodes that are quarantined for them now."""
    offences = dict(state.offences)
    for node in asked:
        offences[node] = offences.get(node, 0) + 1 if node in intake.offenders else 0
    limit = settings.quarantine_after
    return offences, tuple(node for node in asked if limit and offences[node] >= limit)
