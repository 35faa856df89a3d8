"""Matrix factorization on a node: the whole cohort's updates in one pass, and federated evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.view import Alteration, TrainingPairs
from client.hosting import ShardHosting, host_interactions
from client.learners.cohort import Cohort, cohort_of, contrastive_draws, in_parts, training_pairs
from client.ranking import held_out_histograms
from client.state.private_vectors import PrivateVectors, Vectors, joined
from data.shard import Shard
from models.recommenders.mf import cohort_gradient
from protocol.requests import EvaluateRequest, GlobalModel, TrainReply, TrainRequest
from protocol.updates import Updates, concat, make_updates

if TYPE_CHECKING:
    from client.config import ClientConfig

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """What some users of a cohort upload, and what their vectors are stepped by."""

    updates: Updates
    losses: Tensor
    slots: Ints
    state: Vectors
    vector_gradients: Tensor


class Factorization:
    """MF for the users of one shard; their vectors stay in ``private(run, dim)`` and never leave the node.

    ``evaluated`` (n,) bool: the shard's users whose metrics count.
    """

    hosting = staticmethod(host_interactions)
    num_weights: int | None = None

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

    @classmethod
    def of_node(
        cls,
        hosting: ShardHosting,
        private: Callable[[str, int], PrivateVectors],
        config: ClientConfig,
        device: torch.device,
    ) -> Factorization:
        """What a node with these users runs."""
        return cls(hosting.shard, hosting.evaluated, private, config.run.seed, device)

    def train(
        self, model: GlobalModel, request: TrainRequest, *, alter: Alteration | None = None, keep: bool = True
    ) -> TrainReply:
        """See ``Learner.train``."""
        users = np.sort(request.users.numpy())
        table = model.items.to(self._device)
        private = self._private(request.run, table.shape[1])
        parts = [self._train(table, private, part, request, alter) for part in in_parts(self._shard, users)]
        if keep:
            # All at once: what dies between two parts must not leave half of the cohort stepped.
            slots = np.concatenate([part.slots for part in parts])
            state = joined([part.state for part in parts])
            gradients = torch.cat([part.vector_gradients for part in parts])
            private.step(slots, state, gradients, request.server_round, request.loss.learning_rate)
        return TrainReply(concat([part.updates for part in parts]), torch.cat([part.losses for part in parts]))

    def _train(
        self, table: Tensor, private: PrivateVectors, users: Ints, request: TrainRequest, alter: Alteration | None
    ) -> _Part:
        loss, now, dim = request.loss, request.server_round, table.shape[1]
        cohort = cohort_of(self._shard, users)
        state = private.at(cohort.slots, now, loss.learning_rate)
        pairs = training_pairs(cohort, loss, self._seed, now, dim)
        if alter is not None:
            mine = torch.from_numpy(cohort.users)
            view = TrainingPairs(pairs.splits, pairs.positives, pairs.negatives, state.vectors, table, users=mine)
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
        updates = make_updates(
            users=torch.from_numpy(cohort.users),
            num_examples=torch.from_numpy(cohort.counts),
            row_splits=gradient.row_splits.cpu(),
            items=gradient.items.cpu(),
            rows=gradient.rows.cpu(),
        )
        vector_gradients = gradient.vectors.cpu() + loss.weight_decay * state.vectors
        return _Part(updates, gradient.losses.cpu(), cohort.slots, state, vector_gradients)

    def evaluate(self, model: GlobalModel, request: EvaluateRequest) -> dict[str, Tensor]:
        """Rank histograms of the held-out items: ``valid`` and ``test``, each as ``rank_histogram`` gives it."""
        table = model.items.to(self._device)
        private = self._private(request.run, table.shape[1])

        def vectors_of(cohort: Cohort) -> tuple[Tensor, Tensor]:
            state = private.at(cohort.slots, request.server_round + 1, request.loss.learning_rate)
            vectors = state.vectors.to(self._device)
            return vectors, vectors

        return held_out_histograms(table, self._shard, self._evaluated, request.users.numpy(), vectors_of)
