"""One evaluation: the nodes count, the counts add up."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from flwr.app import Message
from flwr.serverapp import Grid

import draws
from draws import Stream
from metrics.counting import Metrics, count_limits, metrics_of, no_counts
from protocol.admission import UnreadableError
from protocol.foreign_text import shown
from protocol.messages import read_counts, size_of
from protocol.requests import EvaluateRequest
from server.exchange import exchange
from server.outcome import Counted
from server.requests import Asked, as_messages
from server.run_settings import RunSettings
from server.state import RunState


def evaluate(state: RunState, grid: Grid, settings: RunSettings) -> Counted:
    """Let the nodes evaluate the model of this moment."""
    asked = evaluated(state, settings)
    messages = evaluate_messages(state, asked, settings)
    replies = exchange(grid, messages, settings.round_timeout)
    return add_up(state, asked, messages, replies, settings)


def evaluated(state: RunState, settings: RunSettings) -> Asked:
    """The nodes that host a benign user, with the users to evaluate, none for all; nobody where nothing is counted."""
    if not settings.metrics:
        return {}
    population = settings.population
    everybody = dict.fromkeys(population.honest_nodes.tolist(), torch.empty(0, dtype=torch.int64))
    if settings.eval_users:
        generator = draws.generator(settings.seed, Stream.EVALUATED_USERS)
        everybody = population.by_node(population.sample_honest(settings.eval_users, generator))
    return {node: users for node, users in everybody.items() if node not in state.quarantined}


def evaluate_messages(state: RunState, asked: Asked, settings: RunSettings) -> list[Message]:
    """One message to each node."""
    requests = {
        node: EvaluateRequest(
            state.round,
            users,
            state.run,
            settings.loss,
            state.resumed_at,
            state.keep_from,
            settings.attack_metrics,
            settings.targets,
        )
        for node, users in asked.items()
    }
    return as_messages("evaluate", requests, state.arrays, settings.evaluate_config)


def add_up(
    state: RunState, asked: Asked, sent: Iterable[Message], replies: Iterable[Message], settings: RunSettings
) -> Counted:
    """The nodes' counts in one. A node cannot count more users than it was asked for."""
    num_items = len(state.model.items)
    expected, totals = count_limits(settings.metrics, num_items), no_counts(settings.metrics, num_items)
    failed = dict.fromkeys(asked, "no answer")
    up, of_users = 0, 0
    for reply in replies:
        node = reply.metadata.src_node_id
        if node not in failed:
            continue
        if reply.has_error():
            failed[node] = shown(f"error {reply.error.code}: {reply.error.reason}")
            continue
        most = len(asked[node]) or settings.population.hosted_by(node)
        try:
            counts = read_counts(reply.content, expected, state.round, most)
            up += size_of(reply.content)
        except UnreadableError as error:
            failed[node] = shown(f"unreadable: {error}")
            continue
        del failed[node]
        of_users += most
        for name in totals:
            totals[name] += counts[name]
    down = sum(size_of(message.content) for message in sent)
    return Counted({name: counts.tolist() for name, counts in totals.items()}, failed, of_users, down, up)


def metrics_by_part(state: RunState, counted: Counted, settings: RunSettings) -> Metrics:
    """The numbers of an evaluation by part: what the nodes' counts say, or what the server measures by itself."""
    if settings.measured is not None:
        return settings.measured(state.global_model)
    return metrics_of(settings.metrics, counted.totals)
