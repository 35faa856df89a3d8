"""Alternating minimisation (Bhagoji et al. 2019, §4.3): the poison boosted, then hidden, in turn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.images.image_client import ImageClient
from attacks.view import AttackerView
from protocol.updates import Updates
from settings.options import option


@dataclass(frozen=True)
class AlternatingOptions:
    """How often, and how strongly, both aims are pursued.

    Each epoch has ``poison_steps`` SGD steps on the poison, whose sum is multiplied with ``boost``, and
    ``stealth_steps`` on the clean data with ``distance`` ρ times the distance to a benign update.
    """

    epochs: int = option(0, "passes of the attacker over its examples; 0: as many as honest clients", at_least=0)
    poison_steps: int = option(1, "SGD steps on the poison in each epoch", at_least=1)
    stealth_steps: int = option(10, "SGD steps on the clean data in each epoch", at_least=1)
    boost: float = option(
        0.0, "factor of the steps on the poison; 0: the clients of a round over the server's rate", at_least=0
    )
    distance: float = option(1e-4, "ρ: weight of the distance to a benign update", at_least=0)
    learning_rate: float = option(0.01, "of both kinds of step", above=0)


def alternating_minimization(
    client: ImageClient, options: AlternatingOptions, benign_update: Tensor | None = None
) -> Tensor:
    """(p,) the upload: minimise the poison's loss and boost the step, then the stealth loss, and so on.

    The stealth loss is CE(D_c) + ρ‖(θ − θ_t) − δ_ben‖ with δ_ben = ``benign_update`` (p,), what the attacker takes
    for the others' mean update: its own honest one unless a better guess is given.
    BatchNorm's statistics are those of honest training.
    """
    honest = client.honest()
    benign_update = honest - client.vector if benign_update is None else benign_update
    rate = options.learning_rate
    boost = options.boost or client.replacement_boost
    vector = client.vector.clone()
    vector[client.classifier.num_weights :] = honest[client.classifier.num_weights :]
    for _ in range(options.epochs or client.training.epochs):
        before = vector
        for _ in range(options.poison_steps):
            poison = client.some_poison(client.training.batch_size)
            vector = vector - rate * client.loss_gradient(vector, poison)
        vector = before + boost * (vector - before)
        for _ in range(options.stealth_steps):
            vector = vector - rate * _stealth_gradient(client, vector, benign_update, options.distance)
    return vector - client.vector


def _stealth_gradient(client: ImageClient, vector: Tensor, benign_update: Tensor, distance: float) -> Tensor:
    size = min(client.training.batch_size, len(client.clean))
    chosen = torch.from_numpy(client.generator.choice(len(client.clean), size, replace=False))
    away = (vector - client.vector - benign_update)[: client.classifier.num_weights]
    gradient = client.loss_gradient(vector, client.clean.select(chosen))
    gradient[: client.classifier.num_weights] += distance * away / away.norm().clamp(min=1e-12)
    return gradient


class AlternatingMinimization(Attack):
    """A model attack; what it takes for the others' mean update is its own honest one."""

    prefix = "alternating"
    alone = True
    Options = AlternatingOptions

    def poison(self, view: AttackerView) -> Updates:
        """See ``alternating_minimization``."""
        return view.train(view.selected, alter=partial(alternating_minimization, options=self.options))
