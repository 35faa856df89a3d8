"""What a simulation alone can grant: an attack that sees the benign updates of a round before its own are chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

import draws
from draws import Stream
from protocol.updates import concat
from server.intake import Intake
from server.run_settings import RunSettings
from server.state import RunState


def overseen(state: RunState, intake: Intake, settings: RunSettings) -> Intake:
    """What came in, with the malicious users' updates as an omniscient attack makes them; of other attacks unchanged.

    Its updates are not admitted once more: ``cohort_bounds`` and the rule see them as they are.
    """
    attack, updates, server_round = settings.omniscient, intake.updates, state.round + 1
    if attack is None or updates is None or not settings.attacked(server_round):
        return intake
    malicious = torch.from_numpy(np.isin(updates.users.numpy(), settings.population.malicious_users))
    if not bool(malicious.any()) or bool(malicious.all()):
        return intake
    generator = draws.generator(settings.seed, Stream.ATTACK, server_round)
    benign, own = updates.select(~malicious), updates.select(malicious)
    poisoned = attack.poison_knowing(benign, own, len(state.model.items), generator)
    joined = concat([benign, poisoned])
    return replace(intake, updates=joined.select(joined.users.argsort()))
