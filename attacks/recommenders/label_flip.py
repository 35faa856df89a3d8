"""LabelFlip (Tolpegin et al. 2020): honest training in which what the user liked and what it did not are swapped."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.attack import Attack
from attacks.view import READINGS, Alteration, AttackerView, Reading, TrainingPairs
from protocol.updates import Updates
from settings.options import option


@dataclass(frozen=True)
class LabelFlipOptions:
    """``reading``: in the authors' program the private vectors follow the swapped pairs too."""

    reading: Reading = option("text", READINGS)


class LabelFlip(Attack):
    """A data attack: the gradient of the honest loss on every pair with its positive and its negative swapped."""

    prefix = "label-flip"
    Options = LabelFlipOptions

    def poison(self, view: AttackerView) -> Updates:
        """The updates of honest training on swapped pairs."""
        return view.train(view.selected, alter=swapped)

    def private_pairs(self) -> Alteration | None:
        """See ``Attack``."""
        return swapped if self.options.reading == "program" else None


def swapped(pairs: TrainingPairs) -> tuple[Tensor, Tensor]:
    """The negatives as positives (N,), and the positives as negatives (N,)."""
    return pairs.negatives, pairs.positives
