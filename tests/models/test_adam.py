"""Adam's pure step against torch's optimizer, and the lazy form against one dense Adam over the whole table."""

import numpy as np
import pytest
import torch

from client.state.private_vectors import PrivateVectors
from client.state.store import Store
from models import adam
from models.adam import Moments


def test_a_step_is_torch_adam() -> None:
    torch.manual_seed(0)
    parameter = torch.randn(5, 3, dtype=torch.float64)
    dense = torch.nn.Parameter(parameter.clone())
    optimizer = torch.optim.Adam([dense], lr=2e-3)
    moments = Moments.zeros_like(parameter)
    for count in range(1, 20):
        gradient = torch.randn(5, 3, dtype=torch.float64)
        dense.grad = gradient.clone()
        optimizer.step()
        parameter, moments = adam.step(parameter, gradient, moments, count, 2e-3)
    torch.testing.assert_close(parameter, dense.detach(), rtol=0, atol=1e-12)


def test_private_vectors_move_as_under_one_dense_adam_over_all_users(tmp_path) -> None:
    """300 rounds in which few users take part: the others go on under their momentum, on disk or in memory."""
    num_users, dim, rate, rounds = 12, 4, 2e-3, 300
    users = np.arange(num_users)
    stores = [Store(None), Store(tmp_path / "node" / "state.sqlite")]
    kept = [PrivateVectors(store, num_users, dim, seed=1) for store in stores]
    table = torch.nn.Parameter(kept[0].at(users, 1, rate).vectors.clone())
    optimizer = torch.optim.Adam([table], lr=rate)
    random = np.random.default_rng(2)
    for server_round in range(1, rounds + 1):
        # User 0 takes part once, early: its gap outlasts the momentum.
        pool = users if server_round < 3 else users[1:]
        chosen = np.sort(random.choice(pool, 2, replace=False)) if server_round != 2 else np.array([0, 5])
        gradients = torch.from_numpy(random.normal(size=(2, dim)).astype(np.float32))
        table.grad = torch.zeros_like(table)
        table.grad[chosen] = gradients
        optimizer.step()
        for store, private in zip(stores, kept, strict=True):
            with store.begin():
                store.begin_round(server_round)
                private.step(chosen, private.at(chosen, server_round, rate), gradients, server_round, rate)
    for private in kept:
        found = private.at(users, rounds + 1, rate).vectors
        torch.testing.assert_close(found, table.detach(), rtol=0, atol=1e-6)


def test_looking_at_vectors_changes_nothing() -> None:
    users = np.arange(6)
    store = Store(None)
    private = PrivateVectors(store, 6, 4, seed=0)
    with store.begin():
        store.begin_round(1)
        private.step(users[:2], private.at(users[:2], 1, 0.01), torch.ones(2, 4), 1, 0.01)
    before = private.at(users, 5, 0.01).vectors
    private.at(users, 50, 0.01)
    assert torch.equal(private.at(users, 5, 0.01).vectors, before)


def played_one_by_one(value: float, first: float, second: float, last: int, until: int, rate: float) -> float:
    """Dense Adam with a zero gradient in rounds last + 1 … until, in double precision."""
    for count in range(last + 1, until + 1):
        first, second = adam.BETA1 * first, adam.BETA2 * second
        mean, square = first / (1 - adam.BETA1**count), second / (1 - adam.BETA2**count)
        value -= rate * mean / (square**0.5 + adam.EPSILON)
    return value


@pytest.mark.parametrize("root", [0.0, 1e-12, 1e-8, 1e-6, 4.9e-6, 5.1e-6, 1e-5, 1e-3, 1.0])
def test_idle_rounds_are_exact_for_moments_of_any_size(root: float) -> None:
    """From values that Adam's ε swallows to large ones: as a loop over the rounds has it."""
    last, until, rate = 7, 150, 2e-3
    value, first, second = torch.tensor([[0.1]]), torch.tensor([[root]]), torch.tensor([[root**2]])
    moved, _ = adam.idle(value, Moments(first, second), torch.tensor([last]), until, rate)
    expected = played_one_by_one(0.1, float(first), float(second), last, until, rate)
    assert abs(float(moved) - expected) <= 1e-6 * abs(expected - 0.1) + 1e-8


def test_idle_rounds_of_a_user_do_not_depend_on_who_else_is_brought_up() -> None:
    generator = torch.Generator().manual_seed(0)
    n, d = 40, 8
    parameter, first = torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator)
    roots = 10 ** (torch.rand(n, d, generator=generator) * 10 - 9)
    last = torch.randint(0, 400, (n,), generator=generator)
    whole, _ = adam.idle(parameter, Moments(first, roots**2), last, 400, 2e-3)
    for place in range(n):
        one = slice(place, place + 1)
        alone, _ = adam.idle(parameter[one], Moments(first[one], roots[one] ** 2), last[one], 400, 2e-3)
        assert torch.equal(alone, whole[one])
