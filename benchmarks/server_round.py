"""What the server itself does in a round, part by part: ``python -m benchmarks.server_round``.

One process, one thread, made-up updates: so many users with 25 item rows each, in the replies of two nodes. The
processor seconds are the median of several runs. Other numbers of items and users tell what grows with which.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from flwr.app import Message, RecordDict

from protocol.admission import Limits
from protocol.messages import model_record, train_reply_content
from protocol.requests import GlobalModel, TrainReply
from protocol.updates import Updates, make_updates
from server.intake import take_in
from server.population.population import Population
from strategies.server_model import ServerModel

DIM, ROWS_A_USER, NODES = 64, 25, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=10_000, help="users a round")
    parser.add_argument("--population", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    items, users = arguments.items, arguments.users
    model = ServerModel.start(torch.randn(items, DIM) * 0.01, torch.empty(0), 2e-3, 1e-5)
    everybody = np.arange(arguments.population)
    population = Population(
        everybody, (everybody % NODES + 1).astype(np.uint64), np.zeros(len(everybody), np.bool_), items
    )
    asked = population.by_node(population.cohort(0, 1, users))
    limits = {node: Limits(part, items, DIM, 0, 1_000_000) for node, part in asked.items()}
    replies = [_reply(node, part, items, generator) for node, part in asked.items()]
    updates = take_in(replies, 1, limits).updates
    assert updates is not None
    gradient = updates.weighted_mean(items)
    stepped = model.step(gradient)
    parts: dict[str, Callable[[], object]] = {
        "draw the cohort, group it by node": lambda: population.by_node(population.cohort(0, 1, users)),
        "the model as a message": lambda: model_record(GlobalModel(model.items, model.shared)),
        "read, admit and join the updates": lambda: take_in(replies, 1, limits),
        "their mean, dense": lambda: updates.weighted_mean(items),
        "Adam's step": lambda: model.step(gradient),
        "is every value finite": stepped.is_finite,
    }
    print(f"{items} items, {users} of {len(everybody)} users a round; load {os.getloadavg()[0]:.1f}")
    for name, part in parts.items():
        print(f"{name:36}{_seconds(part, arguments.repeats):10.4f} s")
    print(f"{'bytes of the updates':36}{updates.num_bytes / 2**20:10.1f} MiB")
    print(f"{'bytes of the model':36}{items * DIM * 4 / 2**20:10.1f} MiB")


def _reply(node: int, users: torch.Tensor, items: int, generator: np.random.Generator) -> Message:
    updates = _updates(users, items, generator)
    content = train_reply_content(TrainReply(updates, torch.zeros(len(users))), 1)
    return Message(content, reply_to=Message(RecordDict(), node, "train", group_id="1"))


def _updates(users: torch.Tensor, items: int, generator: np.random.Generator) -> Updates:
    # An even step between a user's items keeps them distinct and ascending.
    start = generator.integers(items // ROWS_A_USER, size=(len(users), 1))
    touched = (start + np.arange(ROWS_A_USER) * (items // ROWS_A_USER)).ravel()
    return make_updates(
        users,
        torch.full((len(users),), ROWS_A_USER // 2),
        torch.arange(len(users) + 1) * ROWS_A_USER,
        torch.from_numpy(touched),
        torch.randn(len(touched), DIM) * 1e-3,
    )


def _seconds(part: Callable[[], object], repeats: int) -> float:
    took = []
    for _ in range(repeats):
        began = time.process_time()
        part()
        took.append(time.process_time() - began)
    return statistics.median(took)


if __name__ == "__main__":
    main()
