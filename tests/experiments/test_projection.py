"""Figure 4's numbers: inner products of sparse updates, principal components, uniformities within a round."""

import numpy as np
import pytest
import torch

from experiments.papers.projection import columns_of, gram, principal_components, projected_updates, uniformities
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


def test_columns_are_of_ten_rounds_and_the_last_may_be_shorter():
    assert [(rounds.start, rounds.stop - 1) for rounds in columns_of(25)] == [(1, 10), (11, 20), (21, 25)]


def test_the_recorded_updates_of_a_columns_rounds_are_projected_and_marked(attacked_run, attacked_rounds):
    lines = [line for line in attacked_rounds if line["round"] % 2 == 0 and line["round"] <= 4]
    marked = projected_updates(attacked_run, range(1, 5))
    assert marked.values.shape == (sum(len(line["users"]) for line in lines), 2)
    assert marked.malicious.sum() == sum(len(line["malicious"]) for line in lines)
    assert projected_updates(attacked_run, range(1, 2)) is None


def test_uniformities_are_those_that_union_measured(attacked_run, attacked_rounds):
    marked = uniformities(attacked_run, range(3, 6))
    lines = [line for line in attacked_rounds if 3 <= line["round"] < 6]
    found = np.split(marked.values, np.cumsum([len(line["users"]) for line in lines])[:-1])
    for values, line in zip(found, lines, strict=True):
        told = line["rules"]["union"]
        for name, value in (("min", values.min()), ("mean", values.mean()), ("max", values.max())):
            assert value == pytest.approx(told[f"{name}_uniformity"], rel=1e-4)
