"""FedAttack (Wu et al. 2022): honest training on the hardest pairs of the current model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.view import READINGS, Alteration, AttackerView, Reading, TrainingPairs
from protocol.updates import Updates
from settings.options import option


@dataclass(frozen=True)
class FedAttackOptions:
    """``positives``: ``farthest`` re-chooses them as well as the negatives; ``own`` keeps what the user liked.

    ``reading``: the authors' program chooses among all items (see ``extreme_pairs``), whatever ``positives`` says, and
    the private vectors follow its pairs too.
    """

    reading: Reading = option("text", READINGS)
    positives: Literal["farthest", "own"] = option(
        "farthest", "farthest: both items of a pair are re-chosen; own: the negative alone"
    )


class FedAttack(Attack):
    """A data attack: in each round the nearest items become negatives, the farthest ones positives."""

    prefix = "fed-attack"
    Options = FedAttackOptions

    def poison(self, view: AttackerView) -> Updates:
        """The updates of honest training on re-chosen pairs."""
        return view.train(view.selected, alter=self._hardest)

    def private_pairs(self) -> Alteration | None:
        """See ``Attack``."""
        return self._hardest if self.options.reading == "program" else None

    def _hardest(self, pairs: TrainingPairs) -> tuple[Tensor, Tensor]:
        if self.options.reading == "program":
            return extreme_pairs(pairs)
        farthest, nearest = hardest_pairs(pairs)
        return (farthest if self.options.positives == "farthest" else pairs.positives), nearest


def extreme_pairs(pairs: TrainingPairs) -> tuple[Tensor, Tensor]:
    """For each pair of a user the lowest of all items in its scores, and the r-th highest, r counting its pairs: (N,).

    The user's own items can be chosen too. A user with more pairs than there are items takes these again from the
    first on; ties go to the lower item id. Source: the first program of the authors of ClusterAttack.
    """
    counts = pairs.splits.diff()
    owner = torch.arange(len(counts)).repeat_interleave(counts, output_size=len(pairs.positives))
    scores = pairs.scores
    rank = (torch.arange(len(owner)) - pairs.splits[owner]) % len(pairs.table)
    most = int(rank.max()) + 1 if len(rank) else 0
    highest = scores.argsort(dim=1, descending=True, stable=True)[:, :most].cpu()
    lowest = scores.argsort(dim=1, stable=True)[:, 0].cpu()
    return lowest[owner], highest[owner, rank]


def hardest_pairs(pairs: TrainingPairs) -> tuple[Tensor, Tensor]:
    """For each pair of a user its r-th farthest and its r-th nearest item, r counting the user's pairs: both (N,).

    Nearness is the model's score p_u · e_i; only items that the user did not interact with in training are chosen.
    A user with more pairs than such items takes them again from the first on. Ties go to the lower item id.
    """
    counts = pairs.splits.diff()
    owner = torch.arange(len(counts)).repeat_interleave(counts, output_size=len(pairs.positives))
    scores = pairs.scores
    liked = torch.zeros_like(scores, dtype=torch.bool)
    splits, items = pairs.history or (pairs.splits, pairs.positives)
    liked[torch.arange(len(counts)).repeat_interleave(splits.diff()), items] = True
    available = (~liked).sum(1).cpu().clamp(min=1)
    rank = (torch.arange(len(owner)) - pairs.splits[owner]) % available[owner]
    most = int(rank.max()) + 1 if len(rank) else 0
    nearest = scores.masked_fill(liked, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :most].cpu()
    farthest = scores.masked_fill(liked, torch.inf).argsort(dim=1, stable=True)[:, :most].cpu()
    return farthest[owner, rank], nearest[owner, rank]
