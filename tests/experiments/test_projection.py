"""Figure 4's numbers: inner products of sparse updates, principal components, uniformities within a round."""

import numpy as np
import pytest
import torch

from experiments.papers.projection import gram, principal_components, projected_updates, uniformities
from protocol.updates import make_updates


def _sparse_updates(num_items: int = 300, users: int = 6, dim: int = 3):
    generator = np.random.default_rng(5)
    items = [np.sort(generator.choice(num_items, size, replace=False)) for size in (4, 0, 300, 17, 1, 90)]
    splits = np.concatenate([[0], np.cumsum([len(found) for found in items])])
    rows = torch.from_numpy(generator.normal(size=(splits[-1], dim))).float()
    shared = torch.from_numpy(generator.normal(size=(users, 2))).float()
    updates = make_updates(
        torch.arange(users), torch.ones(users, dtype=torch.int64), torch.from_numpy(splits),
        torch.from_numpy(np.concatenate(items)), rows, shared,
    )  # fmt: skip
    dense = np.zeros((users, num_items, dim))
    dense[updates.row_owner.numpy(), updates.items.numpy()] = rows.numpy()
    return updates, np.concatenate([dense.reshape(users, -1), shared.numpy()], axis=1)


def test_inner_products_are_those_of_the_dense_updates():
    updates, dense = _sparse_updates()
    np.testing.assert_allclose(gram(updates, 300), dense @ dense.T, rtol=1e-4, atol=1e-4)


def test_components_are_those_of_the_singular_value_decomposition():
    _, dense = _sparse_updates()
    centred = dense - dense.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * values[:2]
    found = principal_components(dense @ dense.T)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)


def test_a_run_is_projected_with_every_update_marked(attacked_run, attacked_rounds):
    marked = projected_updates(attacked_run)
    lines = [line for line in attacked_rounds if line["round"] % 2 == 0]
    assert marked.values.shape == (sum(len(line["users"]) for line in lines), 2)
    assert marked.malicious.sum() == sum(len(line["malicious"]) for line in lines)


def test_uniformities_are_taken_against_their_rounds_median(attacked_run, attacked_rounds):
    marked = uniformities(attacked_run, first=3)
    sizes = [len(line["users"]) for line in attacked_rounds[2:]]
    rounds = np.split(marked.values, np.cumsum(sizes)[:-1])
    assert len(marked.values) == sum(sizes)
    for values in rounds:
        assert np.median(values) == pytest.approx(0, abs=1e-12)
