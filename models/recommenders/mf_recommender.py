"""Matrix factorization as a recommender: each user's vector is private, and only item rows are shared."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from draws import Stream
from models.kernels.cohort import cohort_gradients
from models.recommenders.cohort import DECISIONS, Cohort, kept_coordinates, task_of
from models.recommenders.mf import Pairs, cohort_gradient
from models.recommenders.recommender import CohortGradient, Recommender, Training


class MatrixFactorization(Recommender):
    """MF trained by BPR; see ``models/recommenders/mf.py``."""

    private_vectors: ClassVar[bool] = True

    def gradient(self, table: Tensor, shared: Tensor, training: Training) -> CohortGradient:
        """See ``Recommender.gradient``. On a CPU by compiled loops, elsewhere by torch, of the same draws."""
        if table.device.type == "cpu":
            return _compiled_gradient(table, training)
        return torch_gradient(table, training)

    def user_vectors(
        self, table: Tensor, shared: Tensor, cohort: Cohort, vectors: Tensor, after_valid: bool = False
    ) -> Tensor:
        """The private vectors themselves, whatever the users have seen."""
        return vectors


def torch_gradient(table: Tensor, training: Training) -> CohortGradient:
    """The gradient by torch's operations, on the table's device."""
    pairs = training_pairs(training, table.shape[1]).to(table.device)
    weight = training.loss.contrastive_weight
    return cohort_gradient(table, training.vectors, pairs, training.contrastive(table), weight)


def training_pairs(training: Training, dim: int) -> Pairs:
    """The pairs with what dropout leaves of the three vectors of each."""
    cohort, task = training.cohort, task_of(training.loss, training.seed, training.server_round)
    keep = kept_coordinates(cohort, Stream.DROPOUT, task, cohort.splits, 3, dim)
    splits = torch.from_numpy(cohort.splits)
    return Pairs(splits, training.positives, training.negatives, keep, task.dropped / DECISIONS)


def _compiled_gradient(table: Tensor, training: Training) -> CohortGradient:
    cohort = training.cohort
    found = cohort_gradients(
        table.contiguous().numpy(),
        training.vectors.contiguous().numpy(),
        cohort.histories,
        task_of(training.loss, training.seed, training.server_round),
        training.positives.contiguous().numpy(),
        training.negatives.contiguous().numpy(),
    )
    splits, items, rows = map(torch.from_numpy, (found.row_splits, found.items, found.rows))
    losses, vectors = torch.from_numpy(found.losses), torch.from_numpy(found.vectors)
    nothing = table.new_empty(len(cohort.users), 0)
    return CohortGradient(torch.from_numpy(cohort.counts), losses, splits, items, rows, nothing, vectors)
