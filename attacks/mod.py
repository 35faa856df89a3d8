"""The seam of every attack: a Flower mod around the honest ClientApp of an attacker's node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from flwr.app import Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable, Mod
from torch import Tensor

from attacks.attack import Attack
from attacks.view import AttackerView, HonestTraining
from data import draws
from data.draws import Stream
from protocol.messages import read_model, read_own_reply, read_train_request, train_reply_content
from protocol.requests import GlobalModel, TrainReply, TrainRequest
from protocol.updates import Updates, concat


@dataclass(frozen=True)
class Attacker:
    """What an attacker's node brings along.

    ``controlled`` (m,) int64: its malicious users, in ascending order; it attacks in rounds ``start`` to
    ``stop``, 0 for no end. ``training``: honest training at a model; ``save``: keep the attack's state.
    """

    attack: Attack
    controlled: Tensor
    num_users: int
    clients_per_round: int
    seed: int
    start: int
    stop: int
    training: Callable[[GlobalModel, TrainRequest], HonestTraining]
    save: Callable[[dict[str, float]], None]

    def attacks_in(self, server_round: int) -> bool:
        """Whether it poisons in this round."""
        return self.start <= server_round and (not self.stop or server_round <= self.stop)


def poisoning(attacker_of: Callable[[Context, TrainRequest], Attacker | None]) -> Mod:
    """A mod that lets the app answer honestly and replaces the malicious users' updates in the reply.

    ``attacker_of`` gives the attacker that lives on this node, or ``None`` on an honest one.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type != "train" or not reply.has_content():
            return reply
        request = read_train_request(message.content)
        attacker = attacker_of(context, request)
        if attacker is None or not attacker.attacks_in(request.server_round):
            return reply
        honest = read_own_reply(reply.content)
        malicious = torch.isin(honest.updates.users, attacker.controlled)
        if not bool(malicious.any()):
            return reply
        model = read_model(message.content)
        poisoned = attacker.attack.poison(view_of(attacker, model, request, honest.updates.select(malicious)))
        attacker.save(attacker.attack.state())
        answer = TrainReply(replace_users(honest.updates, malicious, poisoned), honest.losses)
        content = train_reply_content(answer, request.server_round)
        content["attack"] = MetricRecord({**attacker.attack.state()})
        return Message(content, reply_to=message)

    return mod


def view_of(attacker: Attacker, model: GlobalModel, request: TrainRequest, honest: Updates) -> AttackerView:
    """One round as this attacker sees it."""
    # The lowest controlled user tells several attackers' numbers apart.
    lowest = int(attacker.controlled[0])
    return AttackerView(
        request=request,
        model=model,
        selected=honest.users,
        honest=honest,
        controlled=attacker.controlled,
        num_users=attacker.num_users,
        clients_per_round=attacker.clients_per_round,
        generator=draws.generator(attacker.seed, Stream.ATTACK, request.server_round, lowest),
        train=attacker.training(model, request),
    )


def replace_users(updates: Updates, replaced: Tensor, others: Updates) -> Updates:
    """The updates with those of the ``replaced`` (n,) bool users given by ``others``, in the order of ``updates``."""
    joined = concat([updates.select(~replaced), others]) if not bool(replaced.all()) else others
    order = joined.users.argsort()
    return joined.select(order[torch.searchsorted(joined.users[order], updates.users)])
