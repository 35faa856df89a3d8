"""What the loss of a recommender's users depends on, beside the model and their histories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LossOptions:
    """How an honest client computes its loss (Eq. 1, Eq. 4) and steps its private vector.

    ``negatives``: drawn once for the run, or afresh in each round. ``contrastive_weight`` is UNION's α;
    0 leaves its task out.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    dropout: float = 0.2
    negatives: Literal["static", "fresh"] = "static"
    contrastive_weight: float = 0.0
    contrastive_negatives: int = 15
