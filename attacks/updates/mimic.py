"""Mimic (Karimireddy, He and Jaggi 2022): all attackers repeat one honest user, who so becomes a large minority."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.updates.line_search import sampled_matrix
from attacks.view import AttackerView
from protocol.updates import Updates


class Mimic(Attack):
    """A model attack: every user uploads the honest update of that controlled user who stands out most.

    The paper's attacker sees all honest updates over many rounds; this one takes of its own users, who are not in the
    cohort if it has such, the one farthest out along the main direction of their updates in this round.
    """

    prefix = "mimic"

    def poison(self, view: AttackerView) -> Updates:
        """The same update for every selected user."""
        sample = view.sample_honest()
        idle = ~torch.isin(sample.users, view.selected)
        candidates = sample.select(idle) if bool(idle.any()) else sample
        chosen = farthest_out(sampled_matrix(candidates, view.generator))
        copies = candidates.select(torch.full((len(view.selected),), chosen, device=sample.users.device))
        return replace(copies, users=view.honest.users, num_examples=view.honest.num_examples)


def farthest_out(matrix: Tensor) -> int:
    """Which row of (n, D) has the largest projection, either way, on the first principal direction."""
    centred = (matrix - matrix.mean(0)).double()
    first: Tensor = torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -1]
    return int(first.abs().argmax())
