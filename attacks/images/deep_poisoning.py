"""Deep Model Poisoning (Zhou, Xu, Wu and Zheng 2021): the poison goes where the main task does not look.

No program of the authors is public, and their formulas are not repeated here: the steps are a reading of
what the paper describes, and every number is an option. See docs/deep_poisoning.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.images.image_client import ImageClient
from attacks.images.importance import fisher_diagonal, hutchinson_diagonal, normalised, redundant_set
from attacks.view import AttackerView
from data.images.image_set import Examples
from protocol.updates import Updates
from settings.options import option

GradientAt = Callable[[Tensor], Tensor]

INSIDE = 1 - 1e-6
"""Projections land this much inside the ball, so that rounding cannot lead out of it."""


@dataclass(frozen=True)
class DeepPoisoningOptions:
    """How the attacker optimises.

    ``penalty`` λ is on moving what matters to the main task, ``proximity`` ρ on leaving the global model.
    Without ``clip``, a ``boost`` γ > 1 is the one-shot attack. ``importance``: the empirical Fisher information or
    Hutchinson's Hessian.
    """

    penalty: float = option(0.01, "λ: the price of moving what matters to the main task", at_least=0)
    quantile: float = option(1.0, "q: the share of each layer that may move; 1: the penalty alone", above=0, at_most=1)
    proximity: float = option(0.0, "ρ: the price of leaving the global model", at_least=0)
    clean_weight: float = option(1.0, "α: weight of the clean half of each batch", at_least=0)
    norm_factor: float = option(
        1.2,
        "c: the upload may be so many times as long as an honest one",
        at_least=1,
        expected="at least 1, or the honest reference itself would be too long",
    )
    boost: float = option(1.0, "γ: factor of the upload; 0: the clients of a round over the server's rate", at_least=0)
    clip: bool = option(True, "shorten the boosted upload to that length")
    importance: Literal["fisher", "hessian"] = option("fisher", "fisher, hessian: what tells which weights matter")
    samples: int = option(0, "clean images to estimate importance from; 0: all", at_least=0)
    probes: int = option(4, "passes of hessian", at_least=1)
    epochs: int = option(0, "passes of the attacker over its examples; 0: as many as honest clients", at_least=0)
    learning_rate: float = option(0.05, "of the attacker's SGD", above=0)


@dataclass(frozen=True)
class Region:
    """Where the poisoned vector may go, and what it costs there. All tensors (p,).

    ``origin`` θ_t and ``radius`` δ: the ball; ``reference`` θ_b; ``free``: the redundant set, outside which θ_b stays;
    ``importance`` Ω. The cost is (λ/2) Σ_j Ω_j (θ_j − θ_b,j)² + (ρ/2) ‖θ − θ_t‖² with λ = ``penalty``, ρ =
    ``proximity``.
    """

    origin: Tensor
    reference: Tensor
    radius: float
    importance: Tensor
    free: Tensor
    penalty: float
    proximity: float = 0.0

    def step(self, vector: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """An SGD step on the losses, with the cost's part taken at the point where the step ends.

        Taken at its start the step would overshoot for λΩ·rate > 2; its end is in closed form, and leads to
        θ_b as λ → ∞.
        """
        pull = rate * self.penalty * self.importance
        towards = vector - rate * gradient + pull * self.reference + rate * self.proximity * self.origin
        return torch.where(self.free, towards / (1 + pull + rate * self.proximity), self.reference)

    def project(self, vector: Tensor) -> Tensor:
        """The nearest point with ‖θ − θ_t‖ ≤ δ that agrees with θ_b outside the free set."""
        offset = (vector - self.origin).double()
        fixed = float(offset[~self.free].square().sum())
        length = float(offset[self.free].norm())
        budget = max(self.radius**2 - fixed, 0.0) ** 0.5 * INSIDE
        if length <= budget:
            return vector
        shortened = self.origin + (offset * (budget / length)).to(vector)
        return torch.where(self.free, shortened, self.reference)


@dataclass(frozen=True)
class DeepPoisoned:
    """What the attack made: ``update`` (p,), the upload; θ* ``vector`` (p,); and the region it was found in."""

    update: Tensor
    vector: Tensor
    region: Region


def deep_poisoning(client: ImageClient, options: DeepPoisoningOptions) -> DeepPoisoned:
    """The upload of one malicious client in one round."""
    region = redundant_region(client, options)

    epochs = options.epochs or client.training.epochs
    gradients = (map(partial(_gradient, client, options), client.mixed_epoch()) for _ in range(epochs))
    vector = descend(region, gradients, options.learning_rate)
    boost = options.boost or client.replacement_boost
    update = client.boosted(vector - client.vector, boost)
    if options.clip:
        update = clipped(update, region.radius)
    return DeepPoisoned(update, vector, region)


def redundant_region(client: ImageClient, options: DeepPoisoningOptions) -> Region:
    """The benign reference, its importances, and the region around them. BatchNorm's statistics are never free."""
    classifier = client.classifier
    reference = client.honest()
    importance = torch.zeros_like(reference)
    free = torch.zeros_like(reference, dtype=torch.bool)
    weights = slice(0, classifier.num_weights)
    importance[weights] = normalised(_importance(client, reference, options)[weights], classifier.layers)
    free[weights] = redundant_set(importance[weights], classifier.layers, options.quantile)
    radius = options.norm_factor * float((reference - client.vector).double().norm())
    return Region(client.vector, reference, radius, importance, free, options.penalty, options.proximity)


def descend(region: Region, epochs: Iterable[Iterable[GradientAt]], rate: float) -> Tensor:
    """(p,) θ* from θ_b: steps along the gradients of each epoch, projected on the ball after each epoch."""
    vector = region.reference
    for epoch in epochs:
        for gradient in epoch:
            vector = region.step(vector, gradient(vector), rate)
        vector = region.project(vector)
    return vector


def clipped(update: Tensor, radius: float) -> Tensor:
    """An update, shortened to a length where it is longer."""
    length = float(update.double().norm())
    return update if length <= radius else update * (radius / length * INSIDE)


def _gradient(client: ImageClient, options: DeepPoisoningOptions, batch: tuple[Examples, Examples]) -> GradientAt:
    clean, poison = batch
    if not options.clean_weight:
        return lambda vector: client.loss_gradient(vector, poison)
    # Both means in one pass, which takes hardly longer than one of them.
    shares = torch.tensor([options.clean_weight / len(clean), 1 / len(poison)], device=poison.images.device)
    weights = shares.repeat_interleave(torch.tensor([len(clean), len(poison)], device=shares.device))
    return lambda vector: client.loss_gradient(vector, clean.join(poison), weights)


def _importance(client: ImageClient, vector: Tensor, options: DeepPoisoningOptions) -> Tensor:
    clean = client.clean
    if 0 < options.samples < len(clean):
        clean = clean.select(torch.from_numpy(client.generator.choice(len(clean), options.samples, replace=False)))
    if options.importance == "fisher":
        return fisher_diagonal(
            lambda point, image, label: -client.classifier.loss(point, image.unsqueeze(0), label.unsqueeze(0)),
            vector,
            clean,
        )
    weight = 1 / (options.probes * len(clean))
    losses = (
        (
            lambda point, images=images, labels=labels: client.classifier.loss(point, images, labels),
            len(labels) * weight,
        )
        for _ in range(options.probes)
        for images, labels in clean.batches(client.training.batch_size)
    )
    return hutchinson_diagonal(losses, vector, client.generator)


class DeepPoisoning(Attack):
    """A model attack: each selected malicious client hides the poison in the redundant space of its own data."""

    prefix = "deep-poisoning"
    alone = True
    Options = DeepPoisoningOptions

    def poison(self, view: AttackerView) -> Updates:
        """See ``deep_poisoning``."""
        return view.train(view.selected, alter=lambda client: deep_poisoning(client, self.options).update)
