"""The attacks on model updates for any Flower app: a mod around a ClientApp that returns weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

import draws
from attacks import IMAGE_ATTACKS, attack_class
from attacks.attack import Attack, is_attacked
from attacks.claimed_examples import Claim, claiming
from attacks.view import Alteration, AttackerView
from draws import Stream
from protocol.requests import GlobalModel, LossOptions, TrainRequest
from protocol.updates import Updates, make_updates, splits_of
from protocol.weights import Layout, Weights
from settings.options import OptionError, RunConfig, read

ON_UPDATES = [name for name, place in IMAGE_ATTACKS.items() if place.startswith("attacks.updates.")]
"""The attacks that need nothing but honest updates."""


def first_nodes(fraction: float) -> Callable[[Context], bool]:
    """Whether a node is among the first ⌈fraction · n⌋ of n partitions, as simulation numbers them."""

    def malicious(context: Context) -> bool:
        partition, count = (int(context.node_config[name]) for name in ("partition-id", "num-partitions"))
        # Rounded first: 0.07 · 100 is 7.000000000000001.
        return partition < math.ceil(round(fraction * count, 9))

    return malicious


def poisoning(
    attack: str,
    *,
    malicious: Callable[[Context], bool] = lambda context: True,
    options: RunConfig | None = None,
    item_table: str = "",
    samples: int = 1,
    clients_per_round: int = 10,
    malicious_fraction: float = 0.2,
    examples: Claim = "honest",
    max_examples: int = 1_000_000,
    start: int = 1,
    stop: int = 0,
    seed: int = 0,
    weighted_by_key: str = "num-examples",
) -> Mod:
    """A mod that replaces the weights in a malicious node's answers to ``train`` messages.

    ``attack``: one of the attacks on model updates, with its ``options`` under their usual names; ``malicious``: which
    nodes attack. Such a node is alone: it trains honestly ``samples`` times, and the mean and the spread of these
    updates stand for all honest clients. ``clients_per_round`` and ``malicious_fraction``: what it assumes of them.
    ``examples``: what it claims to have; ``start`` to ``stop`` (0: no end): the rounds it attacks in.
    Raises ``OptionError`` for an attack of another kind, or with a wrong option.
    """
    kind = _kind(attack)
    chosen: object = read(kind.Options, dict(options or {}), kind.prefix)

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        server_round = _round_of(message)
        attacked = message.metadata.message_type.startswith("train") and is_attacked(server_round, start, stop)
        if not attacked or not malicious(context):
            return call_next(message, context)
        (sent,) = message.content.array_records.values()
        weights: Weights = {name: array.numpy() for name, array in sent.items()}
        layout = Layout.of(weights, item_table)
        others = [call_next(copy.deepcopy(message), copy.deepcopy(context)) for _ in range(samples - 1)]
        reply = call_next(message, context)
        if any(not answer.has_content() for answer in (reply, *others)):
            return reply
        honest = _updates([reply, *others], layout, weights, weighted_by_key)
        view = AttackerView(
            request=TrainRequest(server_round, torch.tensor([0]), "", LossOptions(weight_decay=0.0)),
            model=layout.model(weights),
            selected=torch.tensor([0]),
            honest=honest.select(torch.tensor([0])),
            controlled=honest.users,
            num_users=max(round(samples / malicious_fraction), samples),
            clients_per_round=clients_per_round,
            generator=draws.generator(seed, Stream.ATTACK, server_round, _partition(context)),
            train=_training(honest),
        )
        poisoned = claiming(kind(chosen).poison(view), examples, view, max_examples)
        return _with_update(reply, poisoned, layout, weights, weighted_by_key)

    return mod


def _kind(attack: str) -> type[Attack]:
    if attack not in ON_UPDATES and ":" not in attack:
        raise OptionError(f"attack = {attack!r}: expected one of {', '.join(ON_UPDATES)}, or 'module:Class'.")
    return attack_class(attack, "lenet")


def _round_of(message: Message) -> int:
    """The round that Flower's strategies put into their configuration, else 1."""
    rounds = [record["server-round"] for record in message.content.config_records.values() if "server-round" in record]
    return int(rounds[0]) if rounds and isinstance(rounds[0], int) else 1


def _partition(context: Context) -> int:
    return int(context.node_config.get("partition-id", context.node_id % (1 << 31)))


def _updates(replies: list[Message], layout: Layout, weights: Weights, weighted_by_key: str) -> Updates:
    """The honest updates of one node, as if of users 0, 1, …"""
    origin = layout.model(weights)
    trained = []
    examples = []
    for reply in replies:
        (record,) = reply.content.array_records.values()
        trained.append(layout.model({name: array.numpy() for name, array in record.items()}))
        (metrics,) = reply.content.metric_records.values()
        examples.append(_number(metrics, weighted_by_key))
    changes = [model.items - origin.items for model in trained]
    touched = [change.abs().sum(1).nonzero().flatten() for change in changes]
    return make_updates(
        users=torch.arange(len(replies)),
        num_examples=torch.tensor(examples),
        row_splits=splits_of(torch.tensor([len(rows) for rows in touched])),
        items=torch.cat(touched),
        rows=torch.cat([change[rows] for change, rows in zip(changes, touched, strict=True)]),
        shared=torch.stack([model.shared - origin.shared for model in trained]),
    )


def _number(metrics: Mapping[str, object], name: str) -> int:
    value = metrics.get(name, 1)
    return int(value) if isinstance(value, int | float) else 1


def _training(honest: Updates) -> Callable[..., Updates]:
    """Honest training that was done already; it can be asked for again, but not altered."""

    def train(users: torch.Tensor, alter: Alteration | None = None, loss: LossOptions | None = None) -> Updates:
        if alter is not None:
            raise ValueError("This app's training cannot be altered from outside.")
        return honest.select(users)

    return train


def _with_update(reply: Message, poisoned: Updates, layout: Layout, weights: Weights, weighted_by_key: str) -> Message:
    """The honest reply with other weights, and another number of examples."""
    model: GlobalModel = layout.model(weights)
    dense = replace(poisoned, num_examples=torch.ones_like(poisoned.num_examples)).weighted_mean(len(model.items))
    (arrays_name,), (metrics_name,) = reply.content.array_records, reply.content.metric_records
    own = {name: array.numpy() for name, array in reply.content.array_records[arrays_name].items()}
    counters = {name: np.asarray(own[name]) for name in layout.counters}
    metrics = dict(reply.content.metric_records[metrics_name])
    if weighted_by_key in metrics:
        metrics[weighted_by_key] = int(poisoned.num_examples[0])
    arrays: ArrayRecord = layout.moved(weights, dense.items, dense.shared, counters)
    reply.content = RecordDict(
        {**dict(reply.content.items()), arrays_name: arrays, metrics_name: MetricRecord(metrics)}
    )
    return reply
