"""Random updates for the tests of the rules, and the obvious dense form of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.adam import Moments
from protocol.updates import Gradient, Updates, make_updates, splits_of
from strategies.rule import Aggregate, ServerView, Verdict, Wrapper
from strategies.server_model import ServerModel

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """Of a random cohort; ``density`` is the expected share of the items that a user touches."""

    seed: int
    n: int
    num_items: int
    dim: int
    num_shared: int
    density: float


def shapes(smallest: int = 1, largest: int = 14) -> st.SearchStrategy[Shape]:
    """Cohorts from a single user up, from hardly any rows to dense updates, with and without other parameters."""
    return st.builds(
        Shape,
        seed=st.integers(0, 2**32 - 1),
        n=st.integers(smallest, largest),
        num_items=st.integers(1, 12),
        dim=st.integers(1, 4),
        num_shared=st.sampled_from([0, 0, 3]),
        density=st.sampled_from([0.1, 0.4, 0.7, 1.0]),
    )


def random_updates(shape: Shape, scale: float = 1.0) -> Updates:
    """float64 updates; the users' ids are not in order."""
    generator = np.random.default_rng(shape.seed)
    touched = generator.random((shape.n, shape.num_items)) < shape.density
    items = torch.from_numpy(touched.nonzero()[1])
    counts = torch.from_numpy(touched.sum(1))
    return make_updates(
        users=torch.from_numpy(generator.permutation(shape.n * 3)[: shape.n]),
        num_examples=torch.from_numpy(generator.integers(1, 200, shape.n)),
        row_splits=splits_of(counts),
        items=items,
        rows=torch.from_numpy(generator.normal(0, scale, (len(items), shape.dim))),
        shared=torch.from_numpy(generator.normal(0, scale, (shape.n, shape.num_shared))),
    )


def from_dense(matrix: Floats, num_items: int, num_examples: NDArray[np.int64] | None = None) -> Updates:
    """Updates that send every row, of (n, num_items · d)."""
    n = len(matrix)
    examples = np.ones(n, dtype=np.int64) if num_examples is None else num_examples
    return make_updates(
        users=torch.arange(n),
        num_examples=torch.from_numpy(examples),
        row_splits=torch.arange(n + 1) * num_items,
        items=torch.arange(num_items).repeat(n),
        rows=torch.from_numpy(matrix.reshape(n * num_items, -1).copy()),
    )


def model_of(shape: Shape, weight_decay: float = 0.0, rounds: int = 3) -> ServerModel:
    """A model with that many items, after a few random steps of Adam."""
    generator = np.random.default_rng(shape.seed + 1)

    def normal(*size: int) -> torch.Tensor:
        return torch.from_numpy(generator.normal(0, 0.1, size))

    items, shared = normal(shape.num_items, shape.dim), normal(shape.num_shared)
    model = ServerModel(
        items, shared, Moments.zeros_like(items), Moments.zeros_like(shared), 2e-3, weight_decay=weight_decay
    )
    for _ in range(rounds):
        model = model.step(Gradient(normal(shape.num_items, shape.dim), normal(shape.num_shared)))
    return model


class DropsEverybody(Wrapper):
    """A rule of somebody's own, which leaves nobody."""

    name = "drops-everybody"

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        nobody = torch.zeros(len(updates), dtype=torch.bool)
        return updates.select(nobody), Verdict(self.name, updates.users, nobody.double(), nobody, {})


def view(model: ServerModel, clients_per_round: int = 50, seed: int = 0) -> ServerView:
    """What a rule sees of the server; the generator is at its start each time."""
    return ServerView(1, model, clients_per_round, np.random.default_rng(seed))


def dense(updates: Updates, num_items: int, common: Gradient | None = None) -> Floats:
    """(n, num_items · d + p): each user's whole update, user by user; with ``common`` its share of λΘ included."""
    matrix = []
    for k in range(len(updates)):
        table = np.zeros((num_items, updates.dim))
        for row in range(int(updates.row_splits[k]), int(updates.row_splits[k + 1])):
            table[int(updates.items[row])] = updates.rows[row].numpy()
        whole = np.concatenate([table.ravel(), updates.shared[k].numpy()])
        matrix.append(whole if common is None else whole + float(updates.l2_share[k]) * flat(common))
    return np.stack(matrix)


def flat(gradient: Gradient) -> Floats:
    """(num_items · d + p): a gradient without its L2 term."""
    joined: Floats = np.concatenate([gradient.items.numpy().ravel(), gradient.shared.numpy()])
    return joined


def whole(gradient: Gradient, model: ServerModel) -> Floats:
    """(num_items · d + p): a gradient as the optimizer takes it, its L2 term included."""
    return flat(gradient) + gradient.l2 * flat(model.common)


def kept_the_same(one: Aggregate, other: Aggregate) -> bool:
    """Whether all rules kept the same users; where not, asserts that only equal scores were decided otherwise."""
    for verdict, second in zip(one.verdicts, other.verdicts, strict=True):
        changed = {*verdict.users[verdict.kept].tolist()} ^ {*second.users[second.kept].tolist()}
        if changed:
            scores = dict(zip(verdict.users.tolist(), verdict.scores.tolist(), strict=True))
            values = [scores[user] for user in changed]
            assert max(values) - min(values) <= 1e-9 * max(abs(value) for value in values)
            return False
    return True


def assert_close(found: Floats, expected: Floats) -> None:
    """Equal to a millionth."""
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
