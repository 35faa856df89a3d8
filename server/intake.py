"""From the replies of a round to the updates that count: read, judged user by user, in one canonical order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from logging import ERROR

import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from torch import Tensor

from protocol.admission import NOT_ASKED, Admitted, Limits, UnreadableError
from protocol.foreign_text import shown
from protocol.messages import LONGEST_TEXT, read_train_reply, reply_size
from protocol.updates import Updates, merge
from strategies.sparse.side_by_side import side_by_side

MOST_NUMBERS = 32
LARGEST_NUMBER = 1e15
"""How much of what a node tells about itself goes into the log; numbers up to this one can be squared and added up."""

LOSS_BOUND, LOSS_WEIGHT_BOUND = 10.0, 32.0
"""In the mean that is logged no user's loss or weight counts for more than so many times the cohort's median."""


@dataclass(frozen=True)
class Intake:
    """What came in.

    ``updates`` and ``losses`` (n,) of the users who passed, in ascending order, ``None`` for nobody; a loss
    is NaN where the user told an impossible one. ``rejected``: reason by user who was asked for;
    ``not_asked``: how many other users a node sent, where it did; ``failed``: reason by node; ``offenders``:
    the nodes that failed, were late, or had a user rejected, without those that the SuperLink gave up, which cost no
    time; ``attack``: numbers that a simulated attacker tells for the log.
    """

    updates: Updates | None
    losses: Tensor
    rejected: dict[int, str]
    failed: dict[int, str]
    num_bytes: int
    attack: dict[str, float]
    not_asked: dict[int, int] = field(default_factory=dict)
    offenders: frozenset[int] = frozenset()

    @property
    def mean_loss(self) -> float | None:
        """The mean of the losses that can be believed, weighted by examples; ``None`` where there are none.

        One user's lie must not hide what the others tell: losses and weights are cut to a
        multiple of their median.
        """
        if self.updates is None:
            return None
        believed = self.losses.isfinite()
        weights = self.updates.num_examples[believed].to(torch.float64)
        losses = self.losses[believed].to(torch.float64)
        if not len(losses):
            return None
        weights = weights.clamp(max=LOSS_WEIGHT_BOUND * weights.median())
        most = LOSS_BOUND * losses.abs().median()
        return float((weights @ losses.clamp(-most, most)) / weights.sum())

    @property
    def reasons(self) -> dict[str, int]:
        """How many users were rejected for each reason."""
        counts = Counter(self.rejected.values())
        counts[NOT_ASKED] += sum(self.not_asked.values())
        return {reason: count for reason, count in sorted(counts.items()) if count}


def take_in(replies: Iterable[Message], server_round: int, limits: Mapping[int, Limits]) -> Intake:
    """Read the replies to one round's messages; ``limits`` says for each node asked what it may answer.

    A node's first readable reply counts. One that cannot be read is the node's failure, and nothing it holds raises.
    """
    parts: dict[int, Admitted] = {}
    failed = dict.fromkeys(sorted(limits), "no answer")
    attack: dict[int, dict[str, float]] = {}
    gone: set[int] = set()
    num_bytes = 0
    asked = [reply for reply in replies if reply.metadata.src_node_id in limits]

    def judge(reply: Message) -> tuple[int, Admitted | str]:
        return _judged(reply, server_round, limits[reply.metadata.src_node_id])

    for reply, (size, judged) in zip(asked, side_by_side(judge, asked), strict=True):
        node = reply.metadata.src_node_id
        if node in parts:
            continue
        num_bytes += size
        if isinstance(judged, str):
            failed[node] = judged
            if reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                gone.add(node)
            continue
        parts[node] = judged
        del failed[node]
        attack[node] = _numbers(reply.content, "attack")
    nodes = sorted(parts)
    rejected = {user: reason for node in nodes for user, reason in sorted(parts[node].rejected.items())}
    not_asked = {node: parts[node].not_asked for node in nodes if parts[node].not_asked}
    offenders = frozenset([*(failed.keys() - gone), *not_asked, *(node for node in nodes if parts[node].rejected)])
    told = {name: value for node in nodes for name, value in attack[node].items()}
    admitted = [parts[node] for node in nodes if len(parts[node].updates)]
    if not admitted:
        return Intake(None, torch.empty(0), rejected, failed, num_bytes, told, not_asked, offenders)
    users = torch.cat([part.updates.users for part in admitted])
    losses = torch.cat([part.losses for part in admitted])[users.argsort()]
    return Intake(
        merge([part.updates for part in admitted]), losses, rejected, failed, num_bytes, told, not_asked, offenders
    )


def _judged(reply: Message, server_round: int, limits: Limits) -> tuple[int, Admitted | str]:
    """A reply's bytes, and what of it can be accepted, or why nothing can."""
    if reply.has_error():
        return len(reply.error.reason or ""), shown(f"error {reply.error.code}: {reply.error.reason}")
    size = 0
    try:
        size = reply_size(reply.content)
        return size, read_train_reply(reply.content, server_round, limits)
    except UnreadableError as error:
        return size, shown(f"unreadable: {error}")
    except Exception as error:
        # A hole in the checks above: worth a line of its own, not worth the run.
        log(ERROR, "Node %d's answer broke its reader: %r", reply.metadata.src_node_id, error)
        return size, shown(f"unreadable: {type(error).__name__}")


def _numbers(content: RecordDict, name: str) -> dict[str, float]:
    """The first few numbers of a record, without those that are not finite or too large."""
    record = content.get(name)
    if not isinstance(record, MetricRecord):
        return {}
    numbers = {}
    for key, value in list(record.items())[:MOST_NUMBERS]:
        if isinstance(value, float) or (isinstance(value, int) and -(1 << 63) <= value < 1 << 63):
            number = float(value)
            if abs(number) <= LARGEST_NUMBER:
                numbers[shown(key[:LONGEST_TEXT])] = number
    return numbers
