"""Explicit boosting (the baseline of PipAttack, Zhang et al., WSDM 2022): its own users score targets higher."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.recommenders.promotion import promoting_updates, promotion_gradient
from attacks.view import AttackerView, TrainingPairs
from protocol.updates import Updates


class ExplicitBoosting(Attack):
    """Uploads the gradient of BCE(σ(s(u, t)), 1) over its own selected users u. It knows no others."""

    prefix = "explicit-boosting"
    promotes: ClassVar[bool] = True

    def poison(self, view: AttackerView) -> Updates:
        """The same update for every selected user, of the targets' rows alone."""
        return promoting_updates(view, *promotion_gradient(view, own_vectors(view)))


def own_vectors(view: AttackerView) -> Tensor:
    """What items are scored with for the selected users (k, d), as honest training shows it."""
    found: list[Tensor] = []

    def look(pairs: TrainingPairs) -> tuple[Tensor, Tensor]:
        found.append(pairs.user_vectors.detach().cpu())
        return pairs.positives, pairs.negatives

    view.train(view.selected, alter=look)
    return torch.cat(found)
