"""A small population, and an attacker in it, for the tests of the attacks."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.poisoning import Attacker, view_of
from attacks.view import Alteration, AttackerView, HonestTraining
from client.learners.recommender import RecommenderLearner
from client.state.private_vectors import PrivateVectors
from client.state.store import Store
from data.interactions import Interactions
from data.shard import Shard, load_shard
from data.synthetic import World, synthetic
from models.recommenders.mf_recommender import MatrixFactorization
from protocol.requests import GlobalModel, LossOptions, TrainRequest
from protocol.updates import Updates, make_updates

DIM = 6
SEED = 3
PLAIN = LossOptions(dropout=0.0, weight_decay=0.01)
"""A loss without random parts, with an L2 term that is not negligible."""


@cache
def population() -> Interactions:
    return synthetic(World(num_users=70, num_items=60, num_genres=5, mean_length=14.0), seed=1)


def shard(users: list[int]) -> Shard:
    return load_shard(population(), np.array(users))


def random_model(seed: int = 0, shared: int = 0) -> GlobalModel:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(population().num_items, DIM, generator=generator) * 0.3
    return GlobalModel(items, torch.randn(shared, generator=generator))


class Side:
    """The users of one node with their private vectors, none of whom took part yet."""

    def __init__(self, users: list[int]) -> None:
        self.shard = shard(users)
        self._private: dict[str, PrivateVectors] = {}
        evaluated = np.ones(len(users), np.bool_)
        self.learner = RecommenderLearner(
            MatrixFactorization(), self.shard, evaluated, self.private, SEED, torch.device("cpu")
        )

    def private(self, run: str, dim: int) -> PrivateVectors:
        if run not in self._private:
            self._private[run] = PrivateVectors(Store(None), population().num_users, dim, SEED)
        return self._private[run]

    def vectors(self, users: list[int], server_round: int = 1, rate: float = 2e-3) -> Tensor:
        """The private vectors (n, d) as the round begins."""
        return self.private("run", DIM).at(np.array(users), server_round, rate).vectors

    def training(self, model: GlobalModel, request: TrainRequest) -> HonestTraining:
        def train(users: Tensor, alter: Alteration | None = None, loss: LossOptions | None = None) -> Updates:
            asked = TrainRequest(request.server_round, users, request.run, loss or request.loss)
            return self.learner.train(model, asked, alter=alter, keep=False).updates

        return train


def attacker(attack: Attack, controlled: list[int], training: Callable[..., HonestTraining], seed: int = 0) -> Attacker:
    """An attacker that poisons in every round."""
    return Attacker(
        attack=attack,
        controlled=torch.tensor(controlled),
        num_users=population().num_users,
        clients_per_round=50,
        seed=seed,
        start=1,
        stop=0,
        training=training,
        save=lambda state, memory: None,
    )


def real_view(
    attack: Attack,
    controlled: list[int],
    selected: list[int],
    *,
    loss: LossOptions = PLAIN,
    server_round: int = 1,
    model: GlobalModel | None = None,
    side: Side | None = None,
) -> AttackerView:
    """What the mod would show the attack, with honest training on the small population."""
    side = side or Side(controlled)
    request = TrainRequest(server_round, torch.tensor(selected), "run", loss)
    return view_of(
        attacker(attack, controlled, side.training), model or random_model(), request, torch.tensor(selected)
    )


def random_updates(users: list[int], num_items: int, dim: int, shared: int, seed: int, density: float = 0.4) -> Updates:
    """Sparse updates with rows of any length from none on, and a mean that is not zero."""
    generator = np.random.default_rng(seed)
    touched = generator.random((len(users), num_items)) < density
    dense = generator.normal(0.4, 1.0, (len(users), num_items, dim)) * generator.gamma(1.0, 1.0, (num_items, dim))
    splits = np.concatenate([[0], touched.sum(1).cumsum()])
    return make_updates(
        users=torch.tensor(users),
        num_examples=torch.from_numpy(generator.integers(1, 100, len(users))),
        row_splits=torch.from_numpy(splits),
        items=torch.from_numpy(np.nonzero(touched)[1]),
        rows=torch.from_numpy(dense[touched]).to(torch.float32),
        shared=torch.from_numpy(generator.normal(0.2, 1.0, (len(users), shared))).to(torch.float32),
    )


def scripted_view(
    updates: Updates,
    selected: list[int],
    num_items: int,
    *,
    weight_decay: float = 0.0,
    num_users: int = 5000,
    clients_per_round: int = 50,
    model: GlobalModel | None = None,
    seed: int = 0,
) -> AttackerView:
    """A view in which these updates are what honest training of the controlled users gives."""

    def train(users: Tensor, alter: Alteration | None = None, loss: LossOptions | None = None) -> Updates:
        return updates.select(torch.searchsorted(updates.users, users))

    chosen = torch.tensor(selected)
    blank = GlobalModel(torch.zeros(num_items, updates.dim), torch.zeros(updates.shared.shape[1]))
    return AttackerView(
        request=TrainRequest(1, chosen, "run", LossOptions(weight_decay=weight_decay)),
        model=model or blank,
        selected=chosen,
        honest=train(chosen),
        controlled=updates.users,
        num_users=num_users,
        clients_per_round=clients_per_round,
        generator=np.random.default_rng(seed),
        train=train,
    )


def dense(updates: Updates, num_items: int) -> np.ndarray:
    """(n, num_items, d) float64, zeros where nothing was sent, row by row."""
    result = np.zeros((len(updates), num_items, updates.dim))
    for k in range(len(updates)):
        for place in range(int(updates.row_splits[k]), int(updates.row_splits[k + 1])):
            result[k, int(updates.items[place])] = updates.rows[place].numpy()
    return result
