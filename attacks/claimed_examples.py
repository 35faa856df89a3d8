"""The number of examples that malicious users claim to have: servers weigh users by it, and cannot check it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from attacks.view import AttackerView
from protocol.updates import Updates

Claim = Literal["honest", "median", "cap"]


def claiming(poisoned: Updates, claim: Claim, view: AttackerView, cap: int) -> Updates:
    """The same updates with the number of examples that their users claim.

    ``honest``: as it is; ``median``: that of the attacker's own users, so that nobody stands out; ``cap``: the most
    that the server admits.
    """
    if claim == "honest":
        return poisoned
    claimed = cap if claim == "cap" else int(view.sample_honest().num_examples.median())
    return replace(poisoned, num_examples=torch.full_like(poisoned.num_examples, claimed))
