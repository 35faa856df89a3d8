"""Local training of a cohort of image classifiers: one client after another, and all stacked with ``torch.func.vmap``.

    python -m benchmarks.classification_training                    # LeNet, 10 clients, 28x28 images, one thread
    python -m benchmarks.classification_training --model resnet8

Both ways take the same SGD steps on the same batches. Prints examples a second of each, and their ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap

from data.images.files import synthetic_images
from data.images.image_set import Examples, ImageSet
from models.images.classification import Classifier, LocalTraining, initial_vector, make_classifier, train_cohort


def main() -> None:
    """Measure both ways on the same clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--examples", type=int, default=320, help="of each client")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = _images(options.model, options.clients * options.examples)
    classifier = make_classifier(options.model, images.shape, images.num_classes)
    everything = images.examples(images.train)
    shares = [Examples(pictures, labels) for pictures, labels in everything.batches(options.examples)]
    training = LocalTraining(epochs=1, batch_size=options.batch_size)
    start = initial_vector(classifier, 0)
    users = list(range(options.clients))
    total = options.clients * options.examples
    ways: dict[str, Callable[[], Tensor]] = {
        "one after another": lambda: train_cohort(classifier, start, shares, training, 0, 1, users),
        "stacked (vmap)": lambda: _stacked(classifier, start, shares, training),
    }
    speeds = {}
    for name, way in ways.items():
        way()
        speeds[name] = total / min(_seconds(way) for _ in range(options.repeats))
        print(f"{options.model}, {options.clients} clients, {name}: {speeds[name]:,.0f} examples/s")
    print(f"ratio: {speeds['one after another'] / speeds['stacked (vmap)']:.2f}")


def _images(model: str, count: int) -> ImageSet:
    if model == "lenet":
        return synthetic_images(count, 1)
    return synthetic_images(count, 1, size=32, channels=3)


def _stacked(classifier: Classifier, start: Tensor, shares: list[Examples], training: LocalTraining) -> Tensor:
    """(n, p) θ_local of clients of equal size; BatchNorm's statistics stay, which favours this way."""
    vectors = start.repeat(len(shares), 1)
    gradients = vmap(grad(classifier.loss))
    pictures = torch.stack([share.images for share in shares])
    labels = torch.stack([share.labels for share in shares])
    for step in range(0, pictures.shape[1], training.batch_size):
        batch = slice(step, step + training.batch_size)
        vectors -= training.learning_rate * gradients(vectors, pictures[:, batch], labels[:, batch])
    return vectors


def _seconds(way: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
