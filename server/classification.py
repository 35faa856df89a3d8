"""Image classification at the server: its own validation and test images, and what it measures on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import draws
from attacks.images.poison_data import PoisonOptions, main_task_test, poison_for_testing
from data.images.files import image_set
from data.images.image_set import Examples, allot
from data.texts import Texts
from draws import Stream
from models.images.classification import (
    Classifier,
    LocalTraining,
    accuracy,
    assess,
    initial_vector,
    make_classifier,
    train,
)
from models.threads import one_thread
from protocol.requests import GlobalModel
from server.config import ServerConfig
from server.population.catalogue import Catalogue
from settings.options import read


@dataclass(frozen=True)
class TestBench:
    """What the server judges a model by.

    ``validation``: training images that no client has; ``test``: the data set's test images; ``poison``: inputs with
    the label that an attacker wants for them, there whether anybody attacks or not. ``training``: how clients train.
    """

    catalogue: Catalogue
    first: GlobalModel
    classifier: Classifier
    validation: Examples
    test: Examples
    poison: Examples
    notice: str
    training: LocalTraining
    seed: int

    @staticmethod
    def of_run(config: ServerConfig) -> TestBench:
        """The bench of a run's data set and model. Raises ``OptionError`` where they do not fit the other options."""
        options = config.options
        poison = read(PoisonOptions, config.run_config, "poison")
        data = image_set(options.dataset, options.data_dir or None)
        held_out = allot(data.train.labels, options.num_clients, options.dirichlet_alpha, options.seed).validation
        classifier = make_classifier(options.model, data.shape, data.num_classes)
        clients = Texts.of_array(np.arange(options.num_clients))
        return TestBench(
            catalogue=Catalogue(clients, Texts.of(())),
            first=GlobalModel(torch.empty(0, 0), initial_vector(classifier, options.seed)),
            classifier=classifier,
            validation=data.examples(data.train, held_out),
            test=main_task_test(data, poison, options.seed),
            poison=poison_for_testing(data, poison, options.seed),
            notice=data.notice,
            training=read(LocalTraining, config.run_config, "local"),
            seed=options.seed,
        )

    def accuracy(self, vector: Tensor) -> float:
        """Of a model (p,) on the validation images."""
        with one_thread():
            return accuracy(self.classifier, vector, self.validation)

    def own_update(self, vector: Tensor, server_round: int) -> Tensor:
        """(p,) what training on the validation images changes of a model (p,), done as a client would do it."""
        generator = draws.generator(self.seed, Stream.SERVER_BATCHES, server_round)
        with one_thread():
            return train(self.classifier, vector, self.validation, self.training, generator) - vector

    def metrics(self, vector: Tensor) -> dict[str, dict[str, float]]:
        """Accuracy and loss by part; in ``test`` also the share of poison inputs that get the target's label."""
        with one_thread():
            found = {"valid": self._measured(vector, self.validation), "test": self._measured(vector, self.test)}
            found["test"]["attack_success"] = accuracy(self.classifier, vector, self.poison)
        return found

    def _measured(self, vector: Tensor, examples: Examples) -> dict[str, float]:
        right, loss = assess(self.classifier, vector, examples)
        return {"accuracy": right, "loss": loss}
