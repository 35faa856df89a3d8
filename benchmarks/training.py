"""One round without a server around it: ``python -m benchmarks.training``.

Ways to make and apply the gradient of 50 users, paired in one run: the project's cohort training
and Adam step; the program that one would write first (a loop over users, one dense backward each); and
the same cohort training as the cohort grows. Imports neither flwr nor ray.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from client.learners.recommender import RecommenderLearner
from client.state.private_vectors import PrivateVectors
from client.state.store import Store
from data import load
from data.interactions import leave_one_out
from data.shard import Shard, shard_of
from models.recommenders.mf import LOG_OFFSET
from models.recommenders.mf_recommender import MatrixFactorization
from models.recommenders.recommender import Recommender
from protocol.requests import GlobalModel, LossOptions, TrainRequest
from strategies.server_model import ServerModel

DIM, RATE = 64, 2e-3


class Federation:
    """A model, a shard with every user, and one way to train a round of them."""

    def __init__(
        self, shard: Shard, loss: LossOptions, device: torch.device, recommender: Recommender | None = None
    ) -> None:
        self.shard, self.loss, self.device = shard, loss, device
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(shard.num_items, DIM, generator=generator).mul_(0.15).to(device)
        self.model = ServerModel.start(table, table.new_empty(0), RATE, 1e-5)
        self.store = Store(None)
        private = PrivateVectors(self.store, shard.num_users, DIM, seed=0)
        everybody = np.ones(len(shard), np.bool_)
        recommender = recommender or MatrixFactorization()
        self.learner = RecommenderLearner(recommender, shard, everybody, lambda run, dim: private, 0, device)

    def train(self, users: np.ndarray, server_round: int) -> None:
        """One round: the cohort's updates as a node makes them, then the weighted mean and Adam."""
        request = TrainRequest(server_round, torch.from_numpy(users), "benchmark", self.loss)
        with self.store.begin():
            self.store.begin_round(server_round)
            self.store.forget(server_round - 1)
            reply = self.learner.train(GlobalModel(self.model.items, self.model.shared), request)
        # A node answers in host memory, wherever it trains.
        mean = reply.updates.weighted_mean(self.shard.num_items)
        self.model = self.model.step(
            replace(mean, items=mean.items.to(self.device), shared=mean.shared.to(self.device))
        )


class Client(torch.nn.Module):
    """One user's model: the whole item table as it was downloaded, and the user's own vector."""

    def __init__(self, table: Tensor, vector: Tensor) -> None:
        super().__init__()
        self.items = torch.nn.Embedding(len(table), DIM, _weight=table.clone())
        self.vector = torch.nn.Parameter(vector.clone())

    def forward(self, positives: Tensor, negatives: Tensor, dropout: float, decay: float) -> Tensor:
        """Eq. 1."""
        user, better, worse = (
            functional.dropout(vectors, dropout)
            for vectors in (self.vector.expand(len(positives), -1), self.items(positives), self.items(negatives))
        )
        difference = (user * better).sum(1) - (user * worse).sum(1)
        penalty = decay / 2 * (self.items.weight.square().sum() + self.vector.square().sum())
        loss: Tensor = penalty - torch.log(torch.sigmoid(difference) + LOG_OFFSET).mean()
        return loss


class ObviousFederation:
    """The program that one would write first.

    Each user in turn downloads the table, draws a negative for each of its items until one is new, and uploads
    the dense gradient of one backward pass. The server averages these, weighted by examples, and torch's Adam steps
    the table; the users' vectors are the rows of one more table with an Adam of its own, as in the authors' program.
    """

    def __init__(self, shard: Shard, loss: LossOptions, device: torch.device) -> None:
        self.shard, self.loss, self.device = shard, loss, device
        self.random = random.Random(0)
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(shard.num_items, DIM, generator=generator).mul_(0.15).to(device)
        self.items = torch.nn.Parameter(table)
        self.vectors = torch.nn.Parameter(torch.randn(len(shard), DIM, generator=generator).mul_(0.15).to(device))
        self.optimizer = torch.optim.Adam([self.items, self.vectors], lr=RATE)

    def train(self, users: np.ndarray, server_round: int) -> None:
        """One round."""
        self.vectors.grad = torch.zeros_like(self.vectors)
        gradients, counts = [], []
        for user in users.tolist():
            history = self.shard.train_items[self.shard.train_splits[user] : self.shard.train_splits[user + 1]].tolist()
            touched = {*history, int(self.shard.valid[user]), int(self.shard.test[user])}
            negatives = []
            for _ in history:
                item = self.random.randrange(self.shard.num_items)
                while item in touched:
                    item = self.random.randrange(self.shard.num_items)
                negatives.append(item)
            client = Client(self.items.detach(), self.vectors[user].detach())
            pairs = torch.tensor([history, negatives], device=self.device)
            client(pairs[0], pairs[1], self.loss.dropout, self.loss.weight_decay).backward()
            assert client.vector.grad is not None
            assert client.items.weight.grad is not None
            self.vectors.grad[user] = client.vector.grad
            gradients.append(client.items.weight.grad.flatten())
            counts.append(len(history))
        weights = torch.tensor(counts, device=self.device) / sum(counts)
        self.items.grad = (weights.to(self.items.dtype) @ torch.stack(gradients)).view_as(self.items)
        self.optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    interactions = load(arguments.dataset, arguments.data_dir)
    shard = shard_of(leave_one_out(interactions), np.arange(interactions.num_users))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{arguments.dataset}, d = {DIM}, torch {torch.__version__}, {where}")
    compare(shard, arguments.users, arguments.rounds, device)
    grow(shard, device)


def compare(shard: Shard, users: int, rounds: int, device: torch.device) -> None:
    """Median milliseconds of a round each way, and ratios of what ran side by side."""
    plain = Federation(shard, LossOptions(), device)
    contrast = Federation(shard, LossOptions(contrastive_weight=1.0), device)
    loop = ObviousFederation(shard, LossOptions(), device)
    ways: dict[str, Callable[[np.ndarray, int], None]] = {
        "cohort in one pass": plain.train,
        "… with the contrastive task": contrast.train,
        "a loop over users": loop.train,
    }
    seconds = paired(ways, cohorts(shard, users, rounds), device)
    base = seconds["cohort in one pass"]
    print(f"\n{users} users a round, {rounds} rounds\n{'way':32}{'median ms':>11}{'× one pass':>12}")
    for name, times in seconds.items():
        ratio = statistics.median(mine / first for mine, first in zip(times, base, strict=True))
        print(f"{name:32}{statistics.median(times) * 1e3:11.2f}{ratio:12.1f}")


def grow(shard: Shard, device: torch.device) -> None:
    """How a round's cost grows with the cohort."""
    print(f"\n{'users a round':16}{'median ms':>11}{'µs a user':>11}")
    for users in (50, 500, 5000):
        if users > len(shard):
            continue
        federation = Federation(shard, LossOptions(), device)
        times = paired({"": federation.train}, cohorts(shard, users, 10), device)[""]
        median = statistics.median(times)
        print(f"{users:<16}{median * 1e3:11.2f}{median / users * 1e6:11.1f}")


def cohorts(shard: Shard, users: int, rounds: int) -> list[np.ndarray]:
    """A cohort for each round, and two to warm up."""
    generator = np.random.default_rng(0)
    return [np.sort(generator.choice(shard.users, users, replace=False)) for _ in range(rounds + 2)]


def paired(
    ways: dict[str, Callable[[np.ndarray, int], None]], rounds: list[np.ndarray], device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each round each way, the ways taking turns; the first two rounds warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for server_round, users in enumerate(rounds, start=1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(users, server_round)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if server_round > 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
