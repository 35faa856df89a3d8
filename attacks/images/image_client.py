"""One malicious client of an image-classification round: all that its attack may use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.images.image_set import Examples
from models.images.classification import Classifier, LocalTraining, train


@dataclass(frozen=True)
class ImageClient:
    """A malicious client in one round.

    ``vector`` (p,): the global model θ_t it was sent; ``clean``: its own share D_c; ``poison``: D_a, labelled with
    the target; ``training``: what an honest client does; ``clients_per_round`` and ``server_rate``: what the
    aggregation will dilute its update by; ``generator`` depends on (seed, round, user) alone. ``reference`` (p,):
    where honest training leads, if that is known already.
    """

    classifier: Classifier
    vector: Tensor
    clean: Examples
    poison: Examples
    training: LocalTraining
    clients_per_round: int
    server_rate: float
    generator: np.random.Generator
    reference: Tensor | None = None

    @property
    def replacement_boost(self) -> float:
        """By how much a difference must be scaled to survive an average with n − 1 others of the same weight."""
        return self.clients_per_round / self.server_rate

    def honest(self) -> Tensor:
        """(p,) the benign reference θ_b: where honest training on the clean data leads from θ_t."""
        if self.reference is not None:
            return self.reference
        return train(self.classifier, self.vector, self.clean, self.training, self.generator)

    def boosted(self, difference: Tensor, boost: float) -> Tensor:
        """γ times a difference (p,), but for BatchNorm's statistics: a boosted variance would be negative."""
        weights = self.classifier.num_weights
        return torch.cat([boost * difference[:weights], difference[weights:]])

    def mixed_epoch(self) -> Iterator[tuple[Examples, Examples]]:
        """Half batches of clean data, each once, beside half batches of poison, as often as it takes."""
        half = max(1, self.training.batch_size // 2)
        order = torch.from_numpy(self.generator.permutation(len(self.clean)))
        for chosen in torch.split(order, half):
            yield self.clean.select(chosen), self.some_poison(half)

    def some_poison(self, count: int) -> Examples:
        """Poison drawn at random; all of it where there is no more."""
        if len(self.poison) <= count:
            return self.poison
        return self.poison.select(torch.from_numpy(self.generator.choice(len(self.poison), count, replace=False)))

    def loss_gradient(self, vector: Tensor, examples: Examples, weights: Tensor | None = None) -> Tensor:
        """(p,) ∂CE/∂θ, of the mean or with the examples' weights; zero for BatchNorm's running statistics, which are
        constants here.
        """
        point = vector.detach().requires_grad_()
        loss = self.classifier.loss(point, examples.images, examples.labels, weights)
        (gradient,) = torch.autograd.grad(loss, point)
        return gradient
