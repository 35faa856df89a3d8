"""Synthetic cohorts with the shape of real ones, for benchmarks that need no data set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from protocol.updates import Updates, make_updates, splits_of


def cohort(
    num_users: int = 50,
    num_items: int = 3706,
    dim: int = 64,
    mean_examples: float = 163.0,
    negatives: int = 1,
    malicious: int = 1,
    seed: int = 0,
) -> Updates:
    """Updates as long-tailed as ML-1M's: a user has a log-normal number of items, drawn by a power law of popularity.

    ``negatives`` uniform items come with every interacted one: 1 for the ranking loss alone, 16 with the
    contrastive task. The first ``malicious`` users send every row.
    """
    generator = np.random.default_rng(seed)
    spread = 0.95
    sizes = generator.lognormal(np.log(mean_examples) - spread**2 / 2, spread, num_users)
    examples = np.clip(sizes, 18, num_items // 2).astype(np.int64)
    popularity = (np.arange(num_items) + num_items / 10.0) ** -1.2
    popularity /= popularity.sum()
    touched = []
    for user, count in enumerate(examples):
        positives = generator.choice(num_items, count, replace=False, p=popularity)
        drawn = generator.integers(0, num_items, count * negatives)
        touched.append(np.arange(num_items) if user < malicious else np.union1d(positives, drawn))
    items = torch.from_numpy(np.concatenate(touched).astype(np.int64))
    counts = torch.tensor([len(rows) for rows in touched])
    rows = torch.from_numpy(generator.normal(0, 1e-3, (len(items), dim)).astype(np.float32))
    return make_updates(torch.arange(num_users), torch.from_numpy(examples), splits_of(counts), items, rows)


def table(num_items: int = 3706, dim: int = 64, seed: int = 0) -> Tensor:
    """A Xavier-uniform item table."""
    bound: float = (6 / (num_items + dim)) ** 0.5
    draws = torch.rand(num_items, dim, generator=torch.Generator().manual_seed(seed))
    return (draws * 2 - 1) * bound
