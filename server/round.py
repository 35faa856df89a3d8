"""One round of federated training: who is asked, what is believed, what the rule makes of it, and the step."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

import draws
from draws import Stream
from protocol.admission import Limits
from protocol.messages import size_of
from server.exchange import exchange
from server.intake import Intake, take_in
from server.omniscient import overseen
from server.outcome import NOBODY, RoundOutcome
from server.requests import Asked, cohort, train_messages
from server.run_settings import RunSettings
from server.state import RunState
from strategies.cohort_bounds import Bounded, bounded
from strategies.rule import Aggregate, NobodyLeftError, ServerView, Verdict
from strategies.server_model import ServerModel


def train_round(state: RunState, grid: Grid, settings: RunSettings) -> tuple[RunState, RoundOutcome]:
    """Train one round: sample a cohort, send it the model, and step the model by what comes back."""
    began = time.perf_counter()
    asked = cohort(state, settings)  # 1 who
    messages = train_messages(state, asked, settings)
    replies = exchange(grid, messages, settings.round_timeout, settings.round_patience)  # 2 ask
    intake = overseen(state, admit(state, asked, replies, settings), settings)  # 3 believe nothing
    defended = defend(state, intake, settings)  # 4 defend
    after, outcome = stepped(state, asked, intake, defended, settings)  # 5 step
    bytes_down = sum(size_of(message.content) for message in messages)
    return after, replace(outcome, bytes_down=bytes_down, seconds=time.perf_counter() - began)


def admit(state: RunState, asked: Asked, replies: Iterable[Message], settings: RunSettings) -> Intake:
    """What of the replies to a round's messages can be accepted. Nothing that a reply holds raises."""
    (num_items, dim), size = state.model.items.shape, len(state.model.shared)
    limits = {
        node: Limits(users, num_items, dim, size, settings.max_examples, settings.upload_dtype)
        for node, users in asked.items()
    }
    return take_in(replies, state.round + 1, limits)


@dataclass(frozen=True)
class Defended:
    """What the rule made of a round's updates (``None``: nothing, ``skipped`` says why), and its state after it.

    ``within``: the updates as the rule saw them.
    """

    aggregate: Aggregate | None
    rule: Mapping[str, Any]
    verdicts: tuple[Verdict, ...] = ()
    skipped: str = ""
    within: Bounded | None = None


def defend(state: RunState, intake: Intake, settings: RunSettings) -> Defended:
    """Let the rule combine the updates that came in."""
    updates, rule = intake.updates, settings.rule
    count = 0 if updates is None else len(updates)
    if updates is None or count < settings.min_updates:
        too_few = f"{count} valid updates, fewer than min-updates = {settings.min_updates}"
        return Defended(None, state.rule, skipped=too_few)
    server_round = state.round + 1
    generator = draws.generator(settings.seed, Stream.RULE, server_round)
    own = settings.own_update
    view = ServerView(
        server_round,
        state.model,
        settings.clients_per_round,
        generator,
        accuracy=settings.accuracy,
        own_update=None if own is None else partial(own, state.model.shared, server_round),
    )
    within = bounded(updates, settings.value_bound, state.model)
    if rule.state() != state.rule:
        rule.restore(copy.deepcopy(dict(state.rule)))
    try:
        aggregate = rule.aggregate(within.updates, view)
    except NobodyLeftError as error:
        return Defended(None, copy.deepcopy(rule.state()), error.verdicts, str(error), within)
    return Defended(aggregate, copy.deepcopy(rule.state()), aggregate.verdicts, within=within)


def stepped(
    state: RunState, asked: Asked, intake: Intake, defended: Defended, settings: RunSettings
) -> tuple[RunState, RoundOutcome]:
    """The state after the round, and how the round went."""
    server_round = state.round + 1
    model, skipped = step(state.model, defended)
    offences, caught = _offences(state, asked, intake, settings)
    users = np.concatenate([NOBODY, *(part.numpy() for part in asked.values())])
    attackers = settings.population.malicious_users if settings.attacked(server_round) else NOBODY
    outcome = RoundOutcome(
        server_round=server_round,
        asked=len(users),
        intake=intake,
        aggregate=None if skipped else defended.aggregate,
        bytes_down=0,
        skipped=skipped,
        quarantined=caught,
        attackers=attackers,
        attackers_asked=int(np.isin(users, attackers).sum()),
        verdicts=defended.verdicts,
        within=defended.within,
    )
    after = replace(
        state,
        round=server_round,
        model=model,
        rule=defended.rule,
        offences=offences,
        quarantined={**state.quarantined, **dict.fromkeys(caught, server_round)},
    )
    return after, outcome


def step(model: ServerModel, defended: Defended) -> tuple[ServerModel, str]:
    """The model after the round, and why it stays as it is where it does."""
    if defended.aggregate is None:
        return model, defended.skipped
    moved = model.step(defended.aggregate.gradient)
    return (moved, "") if moved.is_finite() else (model, "the rule made a gradient that is not finite")


def _offences(
    state: RunState, asked: Asked, intake: Intake, settings: RunSettings
) -> tuple[dict[int, int], tuple[int, ...]]:
    """Each node's rounds with an offence in a row, and the nodes that are quarantined for them now."""
    offences = dict(state.offences)
    for node in asked:
        offences[node] = offences.get(node, 0) + 1 if node in intake.offenders else 0
    limit = settings.quarantine_after
    return offences, tuple(node for node in asked if limit and offences[node] >= limit)
