"""LabelFlip (Tolpegin et al. 2020): honest training in which what the user liked and what it did not are swapped."""

from __future__ import annotations

from torch import Tensor

from attacks.attack import Attack
from attacks.view import AttackerView, TrainingPairs
from protocol.updates import Updates


class LabelFlip(Attack):
    """A data attack: the gradient of the honest loss on every pair with its positive and its negative swapped."""

    prefix = "label-flip"

    def poison(self, view: AttackerView) -> Updates:
        """The updates of honest training on swapped pairs."""
        return view.train(view.selected, alter=swapped)


def swapped(pairs: TrainingPairs) -> tuple[Tensor, Tensor]:
    """The negatives as positives (N,), and the positives as negatives (N,)."""
    return pairs.negatives, pairs.positives
