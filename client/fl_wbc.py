"""FL-WBC (Sun et al. 2021) on a node: a mod that perturbs what its benign users upload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod
from torch import Tensor

from attacks.mod import replace_users
from client.perturbation import perturbed
from protocol.messages import read_own_reply, read_train_request, train_reply_content
from protocol.requests import TrainReply
from strategies.rules.fl_wbc import FlWbcOptions


@dataclass(frozen=True)
class WhiteBloodCells:
    """What a node needs to perturb its benign users' updates.

    ``malicious`` (m,) int64: those that do not; ``num_weights``: see ``Learner``.
    """

    options: FlWbcOptions
    malicious: Tensor
    seed: int
    num_weights: int | None = None


def perturbing(defender_of: Callable[[Context], WhiteBloodCells | None]) -> Mod:
    """A mod that adds FL-WBC's noise to the benign users' updates in the app's reply.

    ``defender_of`` gives what a node needs for it, or ``None`` where the run does without.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type != "train" or not reply.has_content():
            return reply
        defender = defender_of(context)
        if defender is None:
            return reply
        honest = read_own_reply(reply.content)
        benign = ~torch.isin(honest.updates.users, defender.malicious)
        if not bool(benign.any()):
            return reply
        now = read_train_request(message.content).server_round
        noisy = perturbed(honest.updates.select(benign), defender.options, defender.seed, now, defender.num_weights)
        answer = TrainReply(replace_users(honest.updates, benign, noisy), honest.losses)
        return Message(train_reply_content(answer, now), reply_to=message)

    return mod
