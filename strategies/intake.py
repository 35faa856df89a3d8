"""From the replies of a round to the updates that count: read, judged user by user, in one canonical order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from protocol.admission import Admitted, Limits, UnreadableError
from protocol.messages import read_train_reply
from protocol.updates import Updates, concat


@dataclass(frozen=True)
class Intake:
    """What came in.

    ``updates`` and ``losses`` (n,) of the users who passed, in ascending order, ``None`` for nobody;
    ``rejected``: reason by user; ``failed``: reason by node; ``attack``: numbers that a simulated attacker
    tells for the log.
    """

    updates: Updates | None
    losses: Tensor
    rejected: dict[int, str]
    failed: dict[int, str]
    num_bytes: int
    attack: dict[str, float]


def take_in(replies: Iterable[Message], server_round: int, limits: Mapping[int, Limits]) -> Intake:
    """Read the replies to one round's messages; ``limits`` says for each node asked what it may answer.

    A node's first reply counts. One that cannot be read is the node's failure, and nothing it holds raises.
    """
    parts: dict[int, Admitted] = {}
    rejected: dict[int, str] = {}
    failed = dict.fromkeys(limits, "no answer")
    attack: dict[str, float] = {}
    num_bytes = 0
    for reply in replies:
        node = reply.metadata.src_node_id
        if node not in limits or node in parts:
            continue
        if reply.has_error():
            failed[node] = f"error {reply.error.code}: {reply.error.reason}"
            continue
        num_bytes += size_of(reply.content)
        try:
            parts[node] = read_train_reply(reply.content, server_round, limits[node])
        except UnreadableError as error:
            failed[node] = f"unreadable: {error}"
            continue
        del failed[node]
        rejected.update(parts[node].rejected)
        attack.update(_numbers(reply.content, "attack"))
    admitted = [parts[node] for node in sorted(parts) if len(parts[node].updates)]
    if not admitted:
        return Intake(None, torch.empty(0), rejected, failed, num_bytes, attack)
    updates = concat([part.updates for part in admitted])
    order = updates.users.argsort()
    losses = torch.cat([part.losses for part in admitted])[order]
    return Intake(updates.select(order), losses, rejected, failed, num_bytes, attack)


def size_of(content: RecordDict) -> int:
    """Bytes of a message's arrays; the few numbers beside them are not counted."""
    records = [record for record in content.values() if isinstance(record, ArrayRecord)]
    return sum(len(array.data) for record in records for array in record.values())


def _numbers(content: RecordDict, name: str) -> dict[str, float]:
    record = content.get(name)
    if not isinstance(record, MetricRecord):
        return {}
    return {key: float(value) for key, value in record.items() if isinstance(value, int | float)}
