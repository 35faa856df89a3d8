"""Classifiers as functions of one flat parameter vector, and their local training.

The vector (p,) holds all parameters in the module's order, then all floating-point buffers: BatchNorm's running
means and variances travel and are averaged like weights (McMahan et al. 2017 average all that the
model holds), so that a client needs nothing beside the vector. Only the weights are ever trained.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import draws
from data.images.image_set import Examples
from draws import Stream
from models import MODELS
from settings.options import option, require

EVALUATION_BATCH = 500

LARGEST_LOSS = 1e9
"""A diverged model's loss: results are JSON, which has no infinity."""


class Classifier:
    """A network without parameters of its own: every call takes them as one flat vector.

    ``num_weights``: how many leading coordinates are weights; ``size``: p; ``layers``: the slices of the weights
    that belong to one layer (a convolution's kernel and bias, say), in order.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        weights = [(name, tensor.shape) for name, tensor in module.named_parameters()]
        buffers = [(name, tensor.shape) for name, tensor in module.named_buffers() if tensor.is_floating_point()]
        self.names, self.shapes = zip(*weights, *buffers, strict=True)
        self.sizes = [shape.numel() for shape in self.shapes]
        self.trained = len(weights)
        self.num_weights = sum(self.sizes[: self.trained])
        self.size = sum(self.sizes)
        self.layers = self._layers()

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """(p,) to the module's tensors by name, as views."""
        parts = torch.split(vector, self.sizes)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """The inverse of ``unflatten``: a new (p,) tensor."""
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.names])

    def logits(self, tensors: dict[str, Tensor], images: Tensor, training: bool = False) -> Tensor:
        """(b, num_classes) of images (b, channels, size, size).

        In training BatchNorm uses the batch's statistics and moves the running ones in ``tensors`` in place.
        """
        self.module.train(training)
        logits: Tensor = functional_call(self.module, tensors, (images,))
        return logits

    def loss(self, vector: Tensor, images: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean cross-entropy at a vector (p,), or its sum with the examples' weights (b,).

        With BatchNorm's running statistics, which count as constants.
        """
        tensors = self.unflatten(vector)
        constants = {name: tensors[name].detach() for name in self.names[self.trained :]}
        logits = self.logits(tensors | constants, images)
        if weights is None:
            return cross_entropy(logits, labels)
        return cross_entropy(logits, labels, reduction="none") @ weights

    def _layers(self) -> tuple[slice, ...]:
        splits = np.cumsum([0, *self.sizes[: self.trained]]).tolist()
        owners = [name.rpartition(".")[0] for name in self.names[: self.trained]]
        runs = [list(run) for _, run in groupby(range(self.trained), key=lambda index: owners[index])]
        return tuple(slice(splits[run[0]], splits[run[-1] + 1]) for run in runs)


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains: epochs of plain SGD over its share, the last batch of an epoch as large as it comes."""

    epochs: int = option(5, "passes of a client over its share in a round", at_least=1)
    batch_size: int = option(64, "images in a batch of their SGD", at_least=1)
    learning_rate: float = option(0.04, "of their SGD; the paper takes 0.04 on MNIST, 0.5 on CIFAR-10", above=0)


def make_classifier(name: str, shape: Sequence[int], num_classes: int) -> Classifier:
    """The network of a name for images of shape (channels, size, size). Raises ``OptionError`` for an unknown name."""
    names = [model for model, card in MODELS.items() if card.task == "classification"]
    require(name in names, "model", name, "one of " + ", ".join(map(repr, names)))
    module, _, function = MODELS[name].place.partition(":")
    network: Callable[[int, int, int], nn.Module] = getattr(importlib.import_module(module), function)
    with torch.device("meta"):
        return Classifier(network(shape[0], shape[1], num_classes))


def initial_vector(classifier: Classifier, seed: int) -> Tensor:
    """(p,) drawn from the seed alone.

    Kernels and matrices are normal with variance 2/fan_in (He et al. 2015), biases 0, BatchNorm's scales and
    variances 1, its shifts and means 0.
    """
    generator = draws.generator(seed, Stream.INITIAL_MODEL)
    parts = []
    for name, shape in zip(classifier.names, classifier.shapes, strict=True):
        if len(shape) > 1:
            scale = math.sqrt(2 / shape[1:].numel())
            parts.append(torch.from_numpy(generator.normal(0, scale, shape.numel())).float())
        else:
            parts.append(torch.full((shape.numel(),), float(name.endswith(("weight", "running_var")))))
    return torch.cat(parts)


def train(
    classifier: Classifier, vector: Tensor, examples: Examples, training: LocalTraining, generator: np.random.Generator
) -> Tensor:
    """(p,) after local epochs of SGD from a vector (p,); the generator decides the batches."""
    return fit(classifier, vector, examples, training, generator)[0]


def fit(
    classifier: Classifier, vector: Tensor, examples: Examples, training: LocalTraining, generator: np.random.Generator
) -> tuple[Tensor, float]:
    """See ``train``; and the mean loss of the last epoch's batches, each before its step."""
    tensors = {name: part.clone() for name, part in classifier.unflatten(vector).items()}
    weights = [tensors[name].requires_grad_() for name in classifier.names[: classifier.trained]]
    for _ in range(training.epochs):
        total = vector.new_zeros(())
        shuffled = examples.select(torch.from_numpy(generator.permutation(len(examples))))
        for images, labels in shuffled.batches(training.batch_size):
            loss = cross_entropy(classifier.logits(tensors, images, training=True), labels)
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                torch._foreach_add_(weights, gradients, alpha=-training.learning_rate)
                total += loss * len(labels)
    return classifier.flatten(tensors), float(total) / max(len(examples), 1)


def train_cohort(
    classifier: Classifier,
    vector: Tensor,
    shares: Sequence[Examples],
    training: LocalTraining,
    seed: int,
    server_round: int,
    users: Sequence[int],
) -> Tensor:
    """(n, p): what n clients upload, θ_local − θ_global, each trained on its share (n,) from one vector (p,).

    One client after another, so that clients of any size need no padding; for LeNet on a CPU stacking them with
    ``vmap`` is slower (``benchmarks/classification_training.py``). A client's batches depend on (seed, round, user)
    alone.
    """
    return torch.stack(
        [
            train(classifier, vector, share, training, draws.generator(seed, Stream.BATCHES, server_round, user))
            - vector
            for share, user in zip(shares, users, strict=True)
        ]
    )


def accuracy(classifier: Classifier, vector: Tensor, examples: Examples) -> float:
    """Share of the examples that get their label; for poison inputs labelled with the target: the attack's success.

    A label counts where its logit is larger than every other: a network whose logits are all alike, or no numbers,
    knows nothing.
    """
    return assess(classifier, vector, examples)[0]


def assess(classifier: Classifier, vector: Tensor, examples: Examples) -> tuple[float, float]:
    """Accuracy, and the mean cross-entropy: at most ``LARGEST_LOSS``, which also stands for one that is no number."""
    tensors = classifier.unflatten(vector)
    right, loss = 0, 0.0
    with torch.no_grad():
        for images, labels in examples.batches(EVALUATION_BATCH):
            logits = classifier.logits(tensors, images)
            right += int(_is_first(logits, labels).sum())
            loss += float(cross_entropy(logits, labels, reduction="sum"))
    count = max(len(examples), 1)
    return right / count, min(loss / count, LARGEST_LOSS) if math.isfinite(loss) else LARGEST_LOSS


def _is_first(logits: Tensor, labels: Tensor) -> Tensor:
    """(b,) bool: whether the label's logit is larger than every other one of (b, c); NaN is larger than nothing."""
    own = labels.unsqueeze(1)
    others = logits.scatter(1, own, -math.inf).amax(1)
    return logits.gather(1, own).squeeze(1) > others
