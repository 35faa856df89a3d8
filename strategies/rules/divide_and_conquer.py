"""DnC, divide and conquer (Shejwalkar and Houmansadr 2021): drop who lies furthest out along the main direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from protocol.updates import Updates
from settings.options import option
from strategies.assumed_attackers import AssumedAttackers
from strategies.rule import ServerView, Verdict, Wrapper
from strategies.rules.krum import squared_distances
from strategies.sparse.sampled_coordinates import sample_coordinates

SAME_LENGTH = 1e-9
"""Principal directions are equally long where their eigenvalues differ by less than so many times the largest."""


@dataclass(frozen=True)
class DivideAndConquerOptions(AssumedAttackers):
    """Options of DnC beside f, with the authors' values."""

    prefix: ClassVar[str] = "dnc"

    iterations: int = option(1, "draws of coordinates", at_least=1)
    coordinates: int = option(10_000, "b: how many are drawn in each iteration", at_least=1)
    factor: float = option(1.0, "c: an iteration drops so many times the assumed attackers", above=0)


class DivideAndConquer(Wrapper):
    """Drops whom any iteration finds among the c·f largest squared projections on the first principal direction.

    Each iteration looks at b coordinates, drawn at random (Algorithm 2 of the paper). A user's score is its largest
    share of an iteration's sum of squared projections. Where nobody would be left, the one with the lowest score is
    kept.
    """

    name = "dnc"
    Options = DivideAndConquerOptions
    options: DivideAndConquerOptions

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        n, f = len(updates), self.options.assumed(len(updates))
        dropped = min(int(self.options.factor * f), n - 1)
        scores = torch.zeros(n, dtype=torch.float64, device=updates.users.device)
        kept = torch.ones(n, dtype=torch.bool, device=updates.users.device)
        for _ in range(self.options.iterations):
            chosen = sample_coordinates(server.model, self.options.coordinates, server.generator)
            distances = squared_distances(chosen.of_updates(updates), chosen.of_model(server.model).common)
            outlying = projection_shares(distances)
            kept[outlying.argsort(stable=True)[n - dropped :]] = False
            scores = torch.maximum(scores, outlying)
        if not bool(kept.any()):
            kept[scores.argmin()] = True
        verdict = Verdict(self.name, updates.users, scores, kept, {"assumed_malicious": float(f)})
        return updates.select(kept), verdict


def projection_shares(distances: Tensor) -> Tensor:
    """(n,) each update's share of Σ_i ⟨g_i − μ, v⟩², v being the first principal direction.

    From squared distances (n, n): the centred Gram matrix −½JDJ has the eigenvector u with u_i ∝ ⟨g_i − μ, v⟩. An
    update that is infinitely far from most of the others counts as 1, and all that are not as 0. Where several
    directions are equally long, as among updates that are all alike, the mean over them: which of them a solver names
    first depends on the order of the users.
    """
    n = len(distances)
    far = ~distances.isfinite()
    if bool(far.any()):
        return (far.sum(1) > n // 2).to(distances.dtype)
    centred = distances - distances.mean(0)
    centred = -0.5 * (centred - centred.mean(1, keepdim=True))
    values, vectors = torch.linalg.eigh((centred + centred.T) / 2)
    principal = vectors[:, values >= values[-1] - SAME_LENGTH * values.abs().max()]
    shares: Tensor = principal.square().mean(1)
    return shares
