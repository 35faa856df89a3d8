"""A-ra and A-hum (Rong, He and Chen, IJCAI 2022): targets are raised for users that the attacker makes up.

They are made for Fed-NCF. Where scores are products, the gradient of a target's row is −½ times the mean of the drawn
vectors: another direction in each round, which raises nobody's score in the long run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from attacks.attack import Attack
from attacks.recommenders.promotion import promoting_updates, promotion_gradient
from attacks.view import AttackerView
from protocol.updates import Updates
from settings.options import option


@dataclass(frozen=True)
class ARaOptions:
    """``deviation``: of the normal distribution that the made-up user vectors are drawn from."""

    users: int = option(10, "user vectors that the attacker draws in each round", at_least=1)
    deviation: float = option(0.01, "their standard deviation", above=0)


@dataclass(frozen=True)
class AHumOptions(ARaOptions):
    """``steps`` of gradient descent, at ``rate``, by which each drawn user comes to dislike the targets."""

    steps: int = option(30, "steps by which drawn users come to dislike the targets", at_least=0)
    rate: float = option(0.001, "learning rate of these steps", above=0)


class ARa(Attack):
    """Draws users from a normal distribution, and uploads the gradient of BCE(σ(s(u, t)), 1) over them."""

    prefix = "a-ra"
    promotes: ClassVar[bool] = True
    Options = ARaOptions

    def poison(self, view: AttackerView) -> Updates:
        """The same update for every selected user, of the targets' rows and the shared parameters."""
        return promoting_updates(view, *promotion_gradient(view, self._users(view)))

    def _users(self, view: AttackerView) -> Tensor:
        shape = (self.options.users, view.model.items.shape[1])
        drawn = view.generator.normal(0.0, self.options.deviation, shape)
        return torch.from_numpy(drawn).to(view.model.items.dtype)


class AHum(ARa):
    """A-ra with hard users: each drawn one first learns to dislike the targets, by BCE(σ(s(u, t)), 0)."""

    prefix = "a-hum"
    Options = AHumOptions

    def _users(self, view: AttackerView) -> Tensor:
        users = super()._users(view)
        for _ in range(self.options.steps):
            users = users - self.options.rate * dislike_gradient(view, users)
        return users


def dislike_gradient(view: AttackerView, vectors: Tensor) -> Tensor:
    """∂/∂u (n, d) of each user's own mean BCE(σ(s(u, t)), 0) over the targets."""
    users = vectors.clone().requires_grad_()
    scores = view.scores(view.model.items, view.model.shared, users)[:, torch.tensor(view.request.targets)]
    loss = binary_cross_entropy_with_logits(scores, torch.zeros_like(scores), reduction="none").mean(1).sum()
    (gradient,) = torch.autograd.grad(loss, users)
    return gradient
