"""What the loss of a recommender's users depends on, beside the model and their histories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LossOptions:
    """How an honest client computes its loss (Eq. 1, Eq. 4) and steps its private vector.

    ``negatives``: drawn once for the run, or afresh in each round. ``contrastive_weight`` is UNION's α;
    0 leaves its task out. ``pieck_*``: see ``models/recommenders/pieck_defense.py``; weights of 0 leave it out.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    dropout: float = 0.2
    negatives: Literal["static", "fresh"] = "static"
    contrastive_weight: float = 0.0
    contrastive_negatives: int = 15
    pieck_items: int = 10
    pieck_item_weight: float = 0.0
    pieck_user_weight: float = 0.0
