"""SASRec on a node: a user's private state is its history, so that nothing has to be kept from round to round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.view import Alteration, TrainingPairs
from client.hosting import ShardHosting, host_interactions
from client.learners.cohort import Cohort, cohort_of, contrastive_draws, in_parts, negative_items
from client.ranking import held_out_counts
from data.interactions import splits_of
from data.shard import Shard
from metrics import METRICS
from metrics.metric import Metric
from models.recommenders import dropout
from models.recommenders.sasrec import Shape
from models.recommenders.sasrec_cohort import Histories, cohort_gradient
from models.recommenders.sasrec_scoring import last_hidden
from protocol.requests import EvaluateRequest, GlobalModel, LossOptions, TrainReply, TrainRequest
from protocol.updates import concat, make_updates

if TYPE_CHECKING:
    from client.config import ClientConfig

Ints = NDArray[np.int64]


class SequenceLearner:
    """SASRec for the users of one shard.

    ``evaluated`` (n,) bool: the shard's users whose metrics count; ``max_length``: how many of a user's newest
    items count; ``max_batch_tokens``: positions that are worked on at a time, padding included.
    """

    hosting = staticmethod(host_interactions)
    num_weights: int | None = None

    def __init__(
        self,
        shard: Shard,
        evaluated: np.ndarray,
        seed: int,
        device: torch.device,
        max_length: int = 200,
        max_batch_tokens: int = 4096,
    ) -> None:
        self._shard = shard
        self._evaluated = evaluated
        self._seed = seed
        self._device = device
        self._max_length = max_length
        self._max_batch_tokens = max_batch_tokens

    @classmethod
    def of_node(
        cls, hosting: ShardHosting, private: object, config: ClientConfig, device: torch.device
    ) -> SequenceLearner:
        """What a node with these users runs; it asks for no private vectors."""
        run = config.run
        return cls(hosting.shard, hosting.evaluated, run.seed, device, run.max_length, run.max_batch_tokens)

    def train(
        self, model: GlobalModel, request: TrainRequest, *, alter: Alteration | None = None, keep: bool = True
    ) -> TrainReply:
        """See ``Learner.train``; there is nothing to keep.

        The contrastive task takes the items that the loss sees: the newest ``max_length`` + 1. A user with a
        single training item, or one who touched every item, has no pair, and answers with a gradient of 0 that counts
        as one example.
        """
        users, model = np.sort(request.users.numpy()), model.to(self._device)
        parts = [self._train(model, part, request, alter) for part in in_parts(self._shard, users)]
        return TrainReply(concat([part.updates for part in parts]), torch.cat([part.losses for part in parts]))

    def evaluate(
        self, model: GlobalModel, request: EvaluateRequest, metrics: Sequence[Metric] = METRICS["recommendation"]
    ) -> dict[str, Tensor]:
        """What the metrics count of the held-out items, by name."""
        model = model.to(self._device)

        def vectors_of(cohort: Cohort) -> tuple[Tensor, Tensor]:
            # When the test item is to be guessed, the validation item has been seen.
            items = np.insert(cohort.items, cohort.splits[1:], cohort.valid)
            later = cohort.splits + np.arange(len(cohort.splits))
            return self._last_hidden(model, cohort.splits, cohort.items), self._last_hidden(model, later, items)

        return held_out_counts(metrics, model.items, self._shard, self._evaluated, request.users.numpy(), vectors_of)

    def _train(self, model: GlobalModel, users: Ints, request: TrainRequest, alter: Alteration | None) -> TrainReply:
        loss, now, dim = request.loss, request.server_round, model.items.shape[1]
        cohort = cohort_of(self._shard, users).newest(self._max_length + 1).with_negatives()
        positives, negatives = self._pairs(model, cohort, loss, now, alter)
        draws = contrastive_draws(cohort, loss, self._seed, now, dim)
        histories = [torch.from_numpy(cohort.splits), torch.from_numpy(cohort.items), positives, negatives]
        gradient = cohort_gradient(
            model.items,
            model.shared,
            self._shape(model),
            Histories(*(part.to(self._device) for part in histories)),
            probability=loss.dropout,
            keys=dropout.user_keys(self._seed, now, cohort.users).to(self._device),
            contrastive=None if draws is None else draws.to(self._device),
            contrastive_weight=loss.contrastive_weight,
            max_batch_tokens=self._max_batch_tokens,
        )
        updates = make_updates(
            users=torch.from_numpy(cohort.users),
            num_examples=gradient.num_pairs.cpu().clamp(min=1),
            row_splits=gradient.row_splits.cpu(),
            items=gradient.items.cpu(),
            rows=gradient.rows.cpu(),
            shared=gradient.shared.cpu(),
        )
        return TrainReply(updates, gradient.losses.cpu())

    def _pairs(
        self, model: GlobalModel, cohort: Cohort, loss: LossOptions, server_round: int, alter: Alteration | None
    ) -> tuple[Tensor, Tensor]:
        """Positive and negative (N,) at each item of the cohort; what is said of a user's first item is never used."""
        positives = torch.from_numpy(cohort.items)
        negatives = torch.from_numpy(negative_items(cohort, loss, self._seed, server_round))
        if alter is None:
            return positives, negatives
        first = np.zeros(len(cohort.items), np.bool_)
        first[cohort.splits[:-1][cohort.counts > 0]] = True
        used = torch.from_numpy(~first)
        whole = cohort.whole or cohort
        view = TrainingPairs(
            splits=torch.from_numpy(splits_of(np.maximum(cohort.counts - 1, 0))),
            positives=positives[used],
            negatives=negatives[used],
            user_vectors=self._last_hidden(model, cohort.splits, cohort.items),
            table=model.items,
            history=(torch.from_numpy(whole.splits), torch.from_numpy(whole.items)),
        )
        altered = positives.clone(), negatives.clone()
        for pairs, others in zip(altered, alter(view), strict=True):
            pairs[used] = others
        return altered

    def _last_hidden(self, model: GlobalModel, splits: Ints, items: Ints) -> Tensor:
        history = torch.from_numpy(splits).to(self._device), torch.from_numpy(items).to(self._device)
        return last_hidden(model.items, model.shared, self._shape(model), *history, self._max_batch_tokens)

    def _shape(self, model: GlobalModel) -> Shape:
        return Shape(model.items.shape[1], self._max_length)
