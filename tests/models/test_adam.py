"""Adam's pure step against torch's optimizer, and the lazy form against one dense Adam over the whole table."""

import numpy as np
import torch

from client.private_vectors import PrivateVectors
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
    stores = [
        PrivateVectors(users, num_users, dim, seed=1),
        PrivateVectors(users, num_users, dim, seed=1, directory=tmp_path / "node"),
    ]
    table = torch.nn.Parameter(stores[0].at(users, 1, rate).vectors.clone())
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
        for store in stores:
            store.step(chosen, store.at(chosen, server_round, rate), gradients, server_round, rate)
    for store in stores:
        found = store.at(users, rounds + 1, rate).vectors
        torch.testing.assert_close(found, table.detach(), rtol=0, atol=1e-6)


def test_looking_at_vectors_changes_nothing() -> None:
    users = np.arange(6)
    store = PrivateVectors(users, 6, 4, seed=0)
    store.step(users[:2], store.at(users[:2], 1, 0.01), torch.ones(2, 4), 1, 0.01)
    before = store.at(users, 5, 0.01).vectors
    store.at(users, 50, 0.01)
    assert torch.equal(store.at(users, 5, 0.01).vectors, before)
