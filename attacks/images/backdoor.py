"""Baselines that train on poisoned images: label flipping, and model replacement (Bagdasaryan et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from attacks.attack import Attack
from attacks.images.image_client import ImageClient
from attacks.view import AttackerView
from models.images.classification import train
from protocol.updates import Updates
from settings.options import option


@dataclass(frozen=True)
class BackdoorOptions:
    """``boost`` γ (0: the clients of a round over the server's rate); ``epochs`` (0: as many as honest clients)."""

    boost: float = option(0.0, "γ: factor of the upload; 0: the clients of a round over the server's rate", at_least=0)
    epochs: int = option(0, "passes of the attacker over its examples; 0: as many as honest clients", at_least=0)
    learning_rate: float = option(0.05, "of the attacker's SGD", above=0)


def label_flip(client: ImageClient) -> Tensor:
    """(p,) honest training on the clean data and the poison with its flipped labels: data poisoning and no more.

    Source: Tolpegin et al. 2020, with the poison inputs in place of a source class.
    """
    poisoned = client.clean.join(client.poison)
    return train(client.classifier, client.vector, poisoned, client.training, client.generator) - client.vector


def backdoor(client: ImageClient, options: BackdoorOptions) -> Tensor:
    """(p,) γ(X − θ_t), with X trained on clean data and poison: where the others hardly move, the average becomes X.

    Source: Bagdasaryan et al. 2020, Eq. 3, for clients of equal weight.
    """
    epochs = options.epochs or client.training.epochs
    training = replace(client.training, epochs=epochs, learning_rate=options.learning_rate)
    boost = options.boost or client.replacement_boost
    return client.boosted(label_flip(replace(client, training=training)), boost)


class ImageLabelFlip(Attack):
    """A data attack: honest training in which the poison stands beside the clean images, with the target's label."""

    prefix = "label-flip"
    alone = True

    def poison(self, view: AttackerView) -> Updates:
        """See ``label_flip``."""
        return view.train(view.selected, alter=label_flip)


class Backdoor(Attack):
    """A model attack: model replacement."""

    prefix = "backdoor"
    alone = True
    Options = BackdoorOptions

    def poison(self, view: AttackerView) -> Updates:
        """See ``backdoor``."""
        return view.train(view.selected, alter=partial(backdoor, options=self.options))
