"""Image classification on a node: clients with a share of the training images, trained one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import draws
from attacks import attack_class
from attacks.images.image_client import ImageClient
from attacks.images.poison_data import PoisonOptions, poison_for_training
from attacks.view import Alteration
from client.hosting import Hosting, all_malicious, users_here
from data.images.files import image_set
from data.images.image_set import Examples, ImageSet, Indices, allot
from data.texts import Texts
from draws import Stream
from metrics.metric import Metric
from models.images.classification import LocalTraining, fit, make_classifier
from models.threads import one_thread
from protocol.requests import EvaluateRequest, GlobalModel, TrainReply, TrainRequest
from protocol.updates import make_updates
from settings.options import read

if TYPE_CHECKING:
    from client.config import ClientConfig


@dataclass(frozen=True)
class ImageHosting(Hosting):
    """With images: the run's data set, and which of its training images each of the users (n,) has."""

    data: ImageSet
    shares: list[Indices]


@dataclass(frozen=True)
class LocalOptions:
    """What clients do in a round, and what malicious ones among them want."""

    training: LocalTraining
    poison: PoisonOptions
    clients_per_round: int
    seed: int


@dataclass(frozen=True)
class Trained:
    """Where honest training of one client led: ``vector`` (p,), and its mean loss."""

    vector: Tensor
    loss: float


def host_images(config: ClientConfig, agreement: object) -> ImageHosting:
    """What a classifier's node holds; there are no files of its own to agree on."""
    run = config.run
    data = image_set(run.dataset, config.data_dir)
    shares = allot(data.train.labels, run.num_clients, run.dirichlet_alpha, run.seed).shares
    malicious = all_malicious(run.num_clients, config)
    # A node with a role needs not have the attack.
    spread = not config.node.role and config.attacked and attack_class(run.attack, run.model).alone
    users = users_here(run.num_clients, malicious, config, spread)
    here = np.isin(users, malicious)
    own = [shares[user] for user in users]
    return ImageHosting(users, here, Texts.of_array(users), run.num_clients, 0, "", data, own)


class ImageLearner:
    """A classifier for the clients of one node, without private state.

    What a client uploads is the difference θ_local − θ_global (p,), ``Updates.shared``; there are no item rows.
    """

    hosting = staticmethod(host_images)

    def __init__(self, hosting: ImageHosting, model: str, options: LocalOptions, device: torch.device) -> None:
        self._hosting = hosting
        self._classifier = make_classifier(model, hosting.data.shape, hosting.data.num_classes)
        self.num_weights: int | None = self._classifier.num_weights
        self._options = options
        self._device = device
        self._clean: dict[int, Examples] = {}
        self._poison: dict[int, Examples] = {}
        self._known: dict[int, Trained] = {}
        self._known_at: tuple[int, Tensor] = (0, torch.empty(0))

    @classmethod
    def of_node(
        cls, hosting: ImageHosting, private: object, config: ClientConfig, device: torch.device
    ) -> ImageLearner:
        """What a node with these users runs; it asks for no private vectors."""
        training = read(LocalTraining, config.run_config, "local")
        poison = read(PoisonOptions, config.run_config, "poison")
        options = LocalOptions(training, poison, config.run.clients_per_round, config.run.seed)
        return cls(hosting, config.run.model, options, device)

    def train(
        self, model: GlobalModel, request: TrainRequest, *, alter: Alteration | None = None, keep: bool = True
    ) -> TrainReply:
        """See ``Learner.train``; ``alter`` gets an ``ImageClient`` and gives its upload. Raises ``ValueError`` for
        users that this node does not host.
        """
        users, vector = np.sort(request.users.numpy()), model.shared.to(self._device)
        places = self._places(users)
        with one_thread():
            trained = [self._honest(vector, request.server_round, place, keep) for place in places]
            uploads = [one.vector - vector for one in trained]
            for at, place in enumerate(places):
                # A client that has images of the target class alone has nothing to poison.
                if alter is not None and len(self._poisoned(place)):
                    uploads[at] = alter(self._client(vector, request, place, trained[at].vector))
        updates = make_updates(
            users=torch.from_numpy(users),
            num_examples=torch.tensor([len(self._hosting.shares[place]) for place in places], dtype=torch.int64),
            row_splits=torch.zeros(len(users) + 1, dtype=torch.int64),
            items=torch.empty(0, dtype=torch.int64),
            rows=torch.empty(0, model.items.shape[1]),
            shared=torch.stack(uploads).cpu() if uploads else torch.empty(0, len(vector)),
        )
        return TrainReply(updates, torch.tensor([one.loss for one in trained], dtype=torch.float32))

    def evaluate(
        self, model: GlobalModel, request: EvaluateRequest, metrics: Sequence[Metric] = ()
    ) -> dict[str, Tensor]:
        """Nothing: the test images are the server's."""
        return {}

    def _honest(self, vector: Tensor, server_round: int, place: int, keep: bool) -> Trained:
        """Honest training, once a round and client: an attacker asks for it several times."""
        if self._known_at[0] != server_round or not torch.equal(self._known_at[1], vector):
            self._known, self._known_at = {}, (server_round, vector)
        found = self._known.pop(place, None)
        if found is None:
            generator = self._generator(Stream.BATCHES, server_round, place)
            found = Trained(*fit(self._classifier, vector, self._share(place), self._options.training, generator))
        if not keep:
            self._known[place] = found
        return found

    def _client(self, vector: Tensor, request: TrainRequest, place: int, reference: Tensor) -> ImageClient:
        return ImageClient(
            classifier=self._classifier,
            vector=vector,
            clean=self._share(place),
            poison=self._poisoned(place),
            training=self._options.training,
            clients_per_round=self._options.clients_per_round,
            server_rate=request.loss.learning_rate,
            generator=self._generator(Stream.LOCAL_ATTACK, request.server_round, place),
            reference=reference,
        )

    def _generator(self, stream: Stream, server_round: int, place: int) -> np.random.Generator:
        return draws.generator(self._options.seed, stream, server_round, int(self._hosting.users[place]))

    def _share(self, place: int) -> Examples:
        return self._made(self._clean, place, lambda data, share: data.examples(data.train, share))

    def _poisoned(self, place: int) -> Examples:
        options = self._options
        return self._made(
            self._poison, place, lambda data, share: poison_for_training(data, share, options.poison, options.seed)
        )

    def _made(self, known: dict[int, Examples], place: int, make: Callable[[ImageSet, Indices], Examples]) -> Examples:
        if place not in known:
            made = make(self._hosting.data, self._hosting.shares[place])
            known[place] = Examples(made.images.to(self._device), made.labels.to(self._device))
        return known[place]

    def _places(self, users: NDArray[np.int64]) -> list[int]:
        here = self._hosting.users
        unknown = users[~np.isin(users, here)]
        if len(unknown):
            raise ValueError(f"This node does not host the users {unknown[:10].tolist()}.")
        return np.searchsorted(here, users).tolist()  # type: ignore[no-any-return]
