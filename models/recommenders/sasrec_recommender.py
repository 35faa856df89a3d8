"""SASRec as a recommender: a user's private state is its history, so that nothing is kept from round to round."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

import draws
from draws import Stream
from models.recommenders import dropout
from models.recommenders.cohort import Cohort
from models.recommenders.recommender import CohortGradient, Recommender, Training, xavier_table
from models.recommenders.sasrec import Shape, initial_shared
from models.recommenders.sasrec_cohort import Histories, cohort_gradient
from models.recommenders.sasrec_scoring import last_hidden
from settings.run import RunOptions


class SasRec(Recommender):
    """SASRec on the users' newest ``max_length`` items; see ``models/recommenders/sasrec.py``.

    ``max_batch_tokens``: positions that are worked on at a time, padding included. The contrastive task takes the
    items that the loss sees: the newest ``max_length`` + 1.
    """

    unpaired: ClassVar[int] = 1

    def __init__(self, max_length: int = 200, max_batch_tokens: int = 4096) -> None:
        self.newest = max_length + 1
        self._max_length = max_length
        self._max_batch_tokens = max_batch_tokens

    @classmethod
    def of_run(cls, options: RunOptions) -> Self:
        """SASRec with the run's lengths."""
        return cls(options.max_length, options.max_batch_tokens)

    def initial(self, num_items: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draw the item table and the encoder."""
        # A sequence of its own, so that the encoder's first weights do not depend on the number of items.
        generator = draws.generator(seed, Stream.INITIAL_MODEL, user=1)
        return xavier_table(num_items, dim, seed), initial_shared(Shape(dim, self._max_length), generator)

    def gradient(self, table: Tensor, shared: Tensor, training: Training) -> CohortGradient:
        """See ``Recommender.gradient``. A user with a single training item has no pair."""
        cohort, loss, device = training.cohort, training.loss, table.device
        splits, items = torch.from_numpy(cohort.splits), torch.from_numpy(cohort.items)
        return cohort_gradient(
            table,
            shared,
            Shape(table.shape[1], self._max_length),
            Histories(*(part.to(device) for part in (splits, items, training.positives, training.negatives))),
            probability=loss.dropout,
            keys=dropout.user_keys(training.seed, training.server_round, cohort.users).to(device),
            contrastive=training.contrastive(table),
            contrastive_weight=loss.contrastive_weight,
            max_batch_tokens=self._max_batch_tokens,
        )

    def user_vectors(
        self, table: Tensor, shared: Tensor, cohort: Cohort, vectors: Tensor, after_valid: bool = False
    ) -> Tensor:
        """The hidden states at the users' newest items."""
        splits, items = (torch.from_numpy(part).to(table.device) for part in cohort.seen(after_valid))
        shape = Shape(table.shape[1], self._max_length)
        return last_hidden(table, shared, shape, splits, items, self._max_batch_tokens)
