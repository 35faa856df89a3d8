"""FL-WBC (Sun et al. 2021) on a node: its benign users' updates are perturbed before they are uploaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.poisoning import replace_users
from client.perturbation import perturbed
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


def with_noise(reply: TrainReply, defender: WhiteBloodCells, server_round: int) -> TrainReply:
    """The reply with FL-WBC's noise on the benign users' updates; the others and the order stay as they were."""
    benign = ~torch.isin(reply.updates.users, defender.malicious)
    if not bool(benign.any()):
        return reply
    honest = reply.updates.select(benign)
    noisy = perturbed(honest, defender.options, defender.seed, server_round, defender.num_weights)
    return TrainReply(replace_users(reply.updates, benign, noisy), reply.losses)
