"""Whom a round asks, and the messages that ask them."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message
from torch import Tensor

from protocol.messages import request_content
from protocol.requests import EvaluateRequest, TrainRequest
from server.run_settings import RunSettings
from server.state import RunState

Asked = Mapping[int, Tensor]
"""The users (n,) that each node is asked for, by node id."""


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
            server_round,
            users,
            state.run,
            settings.loss,
            state.resumed_at,
            state.keep_from,
            settings.upload_dtype,
            settings.targets,
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
