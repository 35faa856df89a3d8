"""Matrix factorization as a recommender: each user's vector is private, and only item rows are shared."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from draws import Stream
from models.recommenders.cohort import Cohort, kept_coordinates
from models.recommenders.mf import Pairs, cohort_gradient
from models.recommenders.recommender import CohortGradient, Recommender, Training


class MatrixFactorization(Recommender):
    """MF trained by BPR; see ``models/recommenders/mf.py``."""

    private_vectors: ClassVar[bool] = True

    def gradient(self, table: Tensor, shared: Tensor, training: Training) -> CohortGradient:
        """See ``Recommender.gradient``."""
        pairs = training_pairs(training, table.shape[1]).to(table.device)
        weight = training.loss.contrastive_weight
        return cohort_gradient(table, training.vectors, pairs, training.contrastive(table), weight)

    def user_vectors(
        self, table: Tensor, shared: Tensor, cohort: Cohort, vectors: Tensor, after_valid: bool = False
    ) -> Tensor:
        """The private vectors themselves, whatever the users have seen."""
        return vectors


def training_pairs(training: Training, dim: int) -> Pairs:
    """The pairs with what dropout leaves of the three vectors of each."""
    cohort, loss = training.cohort, training.loss
    keep = None
    if loss.dropout:
        kept = kept_coordinates(
            cohort, Stream.DROPOUT, loss.dropout, training.seed, training.server_round, cohort.counts, 3, dim
        )
        keep = torch.from_numpy(kept)
    return Pairs(torch.from_numpy(cohort.splits), training.positives, training.negatives, keep, loss.dropout)
