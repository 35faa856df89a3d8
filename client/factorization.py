"""Matrix factorization on a node: the whole cohort's updates in one pass, and federated evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.view import Alteration, TrainingPairs
from client.cohort import Cohort, cohort_of, contrastive_draws, training_pairs
from client.private_vectors import PrivateVectors
from client.ranking import held_out_ranks, rank_histogram
from data.shard import Shard
from models.mf import cohort_gradient
from protocol.requests import MOST_RANKS, EvaluateRequest, GlobalModel, TrainReply, TrainRequest
from protocol.updates import concat, make_updates

Ints = NDArray[np.int64]

PAIRS_AT_ONCE = 16_384
"""Training pairs whose draws and gradients are in memory together, whatever the cohort."""

EVALUATED_AT_ONCE = 8192
"""Users whose vectors are brought up to date together; bounds memory, whatever the shard."""


class Factorization:
    """MF for the users of one shard; their vectors stay in ``private(run, dim)`` and never leave the node.

    ``evaluated`` (n,) bool: the shard's users whose metrics count.
    """

    def __init__(
        self,
        shard: Shard,
        evaluated: np.ndarray,
        private: Callable[[str, int], PrivateVectors],
        seed: int,
        device: torch.device,
    ) -> None:
        self._shard = shard
        self._evaluated = evaluated
        self._private = private
        self._seed = seed
        self._device = device

    def train(
        self, model: GlobalModel, request: TrainRequest, *, alter: Alteration | None = None, keep: bool = True
    ) -> TrainReply:
        """See ``Learner.train``."""
        users = np.sort(request.users.numpy())
        table = model.items.to(self._device)
        parts = [self._train(table, part, request, alter, keep) for part in self._in_parts(users)]
        return TrainReply(concat([part.updates for part in parts]), torch.cat([part.losses for part in parts]))

    def _in_parts(self, users: Ints) -> list[Ints]:
        """The users in groups that are small enough to train at once; a user's numbers do not depend on its group."""
        counts = cohort_of(self._shard, users).counts
        group = (np.cumsum(counts) - counts) // PAIRS_AT_ONCE
        return np.split(users, np.flatnonzero(np.diff(group)) + 1)

    def _train(
        self, table: Tensor, users: Ints, request: TrainRequest, alter: Alteration | None, keep: bool
    ) -> TrainReply:
        loss, now, dim = request.loss, request.server_round, table.shape[1]
        cohort = cohort_of(self._shard, users)
        private = self._private(request.run, dim)
        state = private.at(cohort.slots, now, loss.learning_rate)
        pairs = training_pairs(cohort, loss, self._seed, now, dim)
        if alter is not None:
            view = TrainingPairs(pairs.splits, pairs.positives, pairs.negatives, state.vectors, table)
            positives, negatives = alter(view)
            pairs = replace(pairs, positives=positives, negatives=negatives)
        draws = contrastive_draws(cohort, loss, self._seed, now, dim)
        gradient = cohort_gradient(
            table,
            state.vectors.to(self._device),
            pairs.to(self._device),
            None if draws is None else draws.to(self._device),
            loss.contrastive_weight,
        )
        if keep:
            vector_gradients = gradient.vectors.cpu() + loss.weight_decay * state.vectors
            private.step(cohort.slots, state, vector_gradients, now, loss.learning_rate)
        updates = make_updates(
            users=torch.from_numpy(cohort.users),
            num_examples=torch.from_numpy(cohort.counts),
            row_splits=gradient.row_splits.cpu(),
            items=gradient.items.cpu(),
            rows=gradient.rows.cpu(),
        )
        return TrainReply(updates, gradient.losses.cpu())

    def evaluate(self, model: GlobalModel, request: EvaluateRequest) -> dict[str, Tensor]:
        """Rank histograms of the held-out items: ``valid`` and ``test``, each as ``rank_histogram`` gives it."""
        table = model.items.to(self._device)
        users = self._shard.users[self._evaluated]
        if len(request.users):
            users = np.intersect1d(users, request.users.numpy())
        counts = {
            "valid": torch.zeros(MOST_RANKS + 1, dtype=torch.int64),
            "test": torch.zeros(MOST_RANKS + 1, dtype=torch.int64),
        }
        for start in range(0, len(users), EVALUATED_AT_ONCE):
            cohort = cohort_of(self._shard, users[start : start + EVALUATED_AT_ONCE])
            state = self._private(request.run, table.shape[1]).at(
                cohort.slots, request.server_round + 1, request.loss.learning_rate
            )
            vectors = state.vectors.to(self._device)
            valid = self._shard.valid[cohort.slots].astype(np.int64)
            test = self._shard.test[cohort.slots].astype(np.int64)
            counts["valid"] += self._histogram(table, vectors, cohort, valid, np.full(len(valid), -1))
            counts["test"] += self._histogram(table, vectors, cohort, test, valid)
        return counts

    def _histogram(
        self, table: Tensor, vectors: Tensor, cohort: Cohort, targets: np.ndarray, also_masked: np.ndarray
    ) -> Tensor:
        ranks = held_out_ranks(table, vectors, cohort, targets, also_masked)
        return rank_histogram(ranks).cpu()
