"""What the image attacks want: inputs that the global model shall take for the target class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

import draws
from data.images.image_set import Examples, ImageSet, Indices, Split
from draws import Stream
from settings.options import option, require

TRIGGER = ((-2, -2), (-2, -4), (-4, -2), (-3, -3))
"""(row, column) of the four white pixels, counted from the lower right corner (the pattern of Gu et al. 2019)."""


@dataclass(frozen=True)
class PoisonOptions:
    """What is poisoned: any image with a ``trigger`` of four pixels, or ``num_samples`` chosen images of the test set.

    ``target``: the class they shall be taken for.
    """

    kind: Literal["trigger", "samples"] = option(
        "trigger", "of images: trigger (four white pixels), or samples (chosen test images)"
    )
    target: int = option(0, "the class that they shall be taken for", at_least=0, expected="a class, counted from 0")
    num_samples: int = option(10, "how many images samples chooses", at_least=1)


def stamp(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of images (m, channels, height, width) with the trigger."""
    stamped = images.copy()
    for row, column in TRIGGER:
        stamped[:, :, row, column] = 255
    return stamped


def chosen_samples(data: ImageSet, options: PoisonOptions, seed: int) -> Indices:
    """The test images that a run with chosen samples is after: ascending indices, none of the target class."""
    others = _others(data.test, options, data.num_classes)
    require(options.num_samples <= len(others), "poison-num-samples", options.num_samples, f"at most {len(others)}")
    return np.sort(draws.generator(seed, Stream.ATTACK).choice(others, options.num_samples, replace=False))


def poison_for_training(data: ImageSet, share: Indices, options: PoisonOptions, seed: int) -> Examples:
    """D_a of a malicious client with a share of the training images, labelled with the target.

    With a trigger: the images of its share that are not of the target class, stamped. With chosen samples: these.
    """
    if options.kind == "samples":
        return _labelled(data, data.test.images[chosen_samples(data, options, seed)], options)
    mine = share[np.isin(share, _others(data.train, options, data.num_classes))]
    return _labelled(data, stamp(data.train.images[mine]), options)


def poison_for_testing(data: ImageSet, options: PoisonOptions, seed: int) -> Examples:
    """The inputs that attack success is measured on, labelled with the target: accuracy on them is the success rate.

    With a trigger: all test images that are not of the target class, stamped; no client has seen them. With
    chosen samples: these, which the attacker trains on (its aim is no more than that; Bhagoji et al. 2019).
    """
    if options.kind == "samples":
        return _labelled(data, data.test.images[chosen_samples(data, options, seed)], options)
    return _labelled(data, stamp(data.test.images[_others(data.test, options, data.num_classes)]), options)


def main_task_test(data: ImageSet, options: PoisonOptions | None, seed: int) -> Examples:
    """The clean test examples; without the chosen samples, whose labels the attacker contests."""
    if options is None or options.kind == "trigger":
        return data.examples(data.test)
    return data.examples(data.test, np.setdiff1d(np.arange(len(data.test)), chosen_samples(data, options, seed)))


def _others(split: Split, options: PoisonOptions, num_classes: int) -> Indices:
    require(
        options.target < num_classes, "poison-target", options.target, f"below {num_classes}, the number of classes"
    )
    return np.flatnonzero(split.labels != options.target)


def _labelled(data: ImageSet, images: NDArray[np.uint8], options: PoisonOptions) -> Examples:
    return Examples(data.normalise(images), torch.full((len(images),), options.target))
