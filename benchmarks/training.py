"""One round without a server around it: ``python -m benchmarks.training``.

Three ways to make and apply the gradient of 50 users, paired in one run: the project's cohort training
and Adam step; the program that one would write first (a loop over users, one dense backward each); and
the same cohort training as the cohort grows. Imports neither flwr nor ray.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from client.cohort import cohort_of, contrastive_draws, training_pairs
from client.private_vectors import PrivateVectors
from data import load
from data.interactions import leave_one_out
from data.shard import Shard, shard_of
from models.mf import LOG_OFFSET, cohort_gradient
from protocol.requests import LossOptions
from protocol.updates import Gradient, make_updates
from strategies.server_model import ServerModel

DIM, RATE = 64, 2e-3


class Federation:
    """A model, a shard with every user, and one way to train a round of them."""

    def __init__(self, shard: Shard, loss: LossOptions, device: torch.device) -> None:
        self.shard, self.loss, self.device = shard, loss, device
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(shard.num_items, DIM, generator=generator).mul_(0.15).to(device)
        self.model = ServerModel.start(table, table.new_empty(0), RATE, 1e-5)
        self.private = PrivateVectors(shard.users, shard.num_users, DIM, seed=0)

    def vectorised(self, users: np.ndarray, server_round: int) -> None:
        """The project's way: the whole cohort in one pass, then the weighted mean and Adam."""
        cohort = cohort_of(self.shard, users)
        state = self.private.at(cohort.slots, server_round, RATE)
        pairs = training_pairs(cohort, self.loss, 0, server_round, DIM).to(self.device)
        draws = contrastive_draws(cohort, self.loss, 0, server_round, DIM)
        gradient = cohort_gradient(
            self.model.items,
            state.vectors.to(self.device),
            pairs,
            None if draws is None else draws.to(self.device),
        )
        self.private.step(cohort.slots, state, gradient.vectors.cpu(), server_round, RATE)
        counts = torch.from_numpy(cohort.counts).to(self.device)
        updates = make_updates(counts, counts, gradient.row_splits, gradient.items, gradient.rows)
        self.model = self.model.step(updates.weighted_mean(self.shard.num_items))

    def one_by_one(self, users: np.ndarray, server_round: int) -> None:
        """The obvious way: for each user an autograd pass that makes a dense gradient of the whole table."""
        cohort = cohort_of(self.shard, users)
        state = self.private.at(cohort.slots, server_round, RATE)
        pairs = training_pairs(cohort, self.loss, 0, server_round, DIM).to(self.device)
        total = torch.zeros_like(self.model.items)
        vector_gradients = torch.zeros_like(state.vectors)
        for user in range(len(users)):
            part = slice(int(pairs.splits[user]), int(pairs.splits[user + 1]))
            table = self.model.items.clone().requires_grad_()
            vector = state.vectors[user].to(self.device).requires_grad_()
            keep = pairs.keep[part] if pairs.keep is not None else torch.ones(1, 3, DIM, device=self.device)
            bpr(table, vector, pairs.positives[part], pairs.negatives[part], keep).backward()
            assert table.grad is not None
            assert vector.grad is not None
            total += table.grad * int(cohort.counts[user])
            vector_gradients[user] = vector.grad.cpu()
        self.private.step(cohort.slots, state, vector_gradients, server_round, RATE)
        self.model = self.model.step(Gradient(total / int(cohort.counts.sum()), self.model.shared))


def bpr(table: Tensor, vector: Tensor, positives: Tensor, negatives: Tensor, keep: Tensor) -> Tensor:
    """Eq. 1 without its L2 term, for one user."""
    user = vector * keep[:, 0]
    scores = (user * table[positives] * keep[:, 1]).sum(1) - (user * table[negatives] * keep[:, 2]).sum(1)
    return -torch.log(torch.sigmoid(scores) + LOG_OFFSET).mean()


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
    loop = Federation(shard, LossOptions(), device)
    ways: dict[str, Callable[[np.ndarray, int], None]] = {
        "cohort in one pass": plain.vectorised,
        "… with the contrastive task": contrast.vectorised,
        "a loop over users": loop.one_by_one,
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
        times = paired({"": federation.vectorised}, cohorts(shard, users, 10), device)[""]
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
