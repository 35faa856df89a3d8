"""A recommender on a node: from a cohort's histories to pairs, each user's gradient, and updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.view import Alteration, TrainingPairs
from client.hosting import ShardHosting, host_interactions
from client.ranking import held_out_counts
from client.state.private_vectors import PrivateVectors, Vectors, joined
from data.interactions import splits_of
from data.shard import Shard
from metrics import METRICS
from metrics.metric import Metric
from metrics.ranked import Scores
from models.recommenders.cohort import Cohort, cohort_of, in_parts
from models.recommenders.pieck_defense import regularised
from models.recommenders.recommender import Recommender, Training, make_recommender
from protocol.requests import EvaluateRequest, GlobalModel, TrainReply, TrainRequest
from protocol.updates import Updates, concat, make_updates

if TYPE_CHECKING:
    from client.config import ClientConfig

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """What some users of a cohort upload, and their private vectors, if any, with the gradients that step these."""

    updates: Updates
    losses: Tensor
    private: tuple[Vectors, Tensor] | None


class RecommenderLearner:
    """A recommender for the users of one shard; ``private(run, dim)`` keeps their vectors, where it gives them any.

    ``evaluated`` (n,) bool: the shard's users whose metrics count.
    """

    hosting = staticmethod(host_interactions)
    num_weights: int | None = None

    def __init__(
        self,
        recommender: Recommender,
        shard: Shard,
        evaluated: NDArray[np.bool_],
        private: Callable[[str, int], PrivateVectors],
        seed: int,
        device: torch.device,
    ) -> None:
        self._recommender = recommender
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
    ) -> RecommenderLearner:
        """What a node with these users runs."""
        return cls(make_recommender(config.run), hosting.shard, hosting.evaluated, private, config.run.seed, device)

    def train(
        self, model: GlobalModel, request: TrainRequest, *, alter: Alteration | None = None, keep: bool = True
    ) -> TrainReply:
        """See ``Learner.train``.

        A user without pairs, such as one who touched every item and so has no negatives, answers with a gradient of 0
        that counts as one example.
        """
        users, model = np.sort(request.users.numpy()), model.to(self._device)
        private = self._private_vectors(model, request.run)
        parts = [self._train(model, private, part, request, alter) for part in in_parts(self._shard, users)]
        stepped = [part.private for part in parts if part.private is not None]
        if keep and private is not None:
            # All at once: what dies between two parts must not leave half of the cohort stepped.
            state = joined([vectors for vectors, _ in stepped])
            gradients = torch.cat([gradient for _, gradient in stepped])
            private.step(users, state, gradients, request.server_round, request.loss.learning_rate)
        return TrainReply(concat([part.updates for part in parts]), torch.cat([part.losses for part in parts]))

    def evaluate(
        self, model: GlobalModel, request: EvaluateRequest, metrics: Sequence[Metric] = METRICS["recommendation"]
    ) -> dict[str, Tensor]:
        """What the metrics count of the held-out items, by name."""
        model = model.to(self._device)
        private = self._private_vectors(model, request.run)

        def vectors_of(cohort: Cohort) -> tuple[Tensor, Tensor]:
            own = self._without_vectors(cohort)
            if private is not None:
                own = private.at(cohort.users, request.server_round + 1, request.loss.learning_rate).vectors
            return (
                self._recommender.user_vectors(model.items, model.shared, cohort, own.to(self._device)),
                self._recommender.user_vectors(model.items, model.shared, cohort, own.to(self._device), True),
            )

        asked = request.users.numpy()
        return held_out_counts(
            metrics, model.items, self._shard, self._evaluated, asked, vectors_of, self._scores_of(model)
        )

    def _train(
        self,
        model: GlobalModel,
        private: PrivateVectors | None,
        users: Ints,
        request: TrainRequest,
        alter: Alteration | None,
    ) -> _Part:
        loss, now = request.loss, request.server_round
        cohort = cohort_of(self._shard, users)
        if self._recommender.newest is not None:
            cohort = cohort.newest(self._recommender.newest)
        cohort = cohort.with_negatives()
        state = None if private is None else private.at(cohort.users, now, loss.learning_rate)
        vectors = self._without_vectors(cohort) if state is None else state.vectors
        training = Training.honest(cohort, vectors.to(self._device), loss, self._seed, now)
        if alter is not None:
            training = self._altered(model, training, alter)
        gradient = self._recommender.gradient(model.items, model.shared, training)
        if loss.pieck_item_weight or loss.pieck_user_weight:
            # Every node can draw the first table itself: nobody has to keep what the model was like.
            first, _ = self._recommender.initial(len(model.items), model.items.shape[1], self._seed)
            gradient = regularised(gradient, model.items, first.to(self._device), training.vectors, loss)
        updates = make_updates(
            users=torch.from_numpy(cohort.users),
            num_examples=gradient.num_pairs.cpu().clamp(min=1),
            row_splits=gradient.row_splits.cpu(),
            items=gradient.items.cpu(),
            rows=gradient.rows.cpu(),
            shared=gradient.shared.cpu(),
        )
        stepped = None
        if state is not None:
            # Of the private vector alone: the server adds the L2 term of what it steps itself.
            stepped = state, gradient.vectors.cpu() + loss.weight_decay * state.vectors
        return _Part(updates, gradient.losses.cpu(), stepped)

    def _altered(self, model: GlobalModel, training: Training, alter: Alteration) -> Training:
        """The same users with the pairs that an attack puts in place of theirs."""
        cohort, unpaired = training.cohort, self._recommender.unpaired
        paired, whole = torch.from_numpy(cohort.paired(unpaired)), cohort.whole or cohort
        all_paired = not unpaired and self._recommender.newest is None
        view = TrainingPairs(
            splits=torch.from_numpy(splits_of(np.maximum(cohort.counts - unpaired, 0))),
            positives=training.positives[paired],
            negatives=training.negatives[paired],
            user_vectors=self._recommender.user_vectors(model.items, model.shared, cohort, training.vectors),
            table=model.items,
            scores_of=self._scores_of(model),
            users=torch.from_numpy(cohort.users) if self._recommender.private_vectors else None,
            history=None if all_paired else (torch.from_numpy(whole.splits), torch.from_numpy(whole.items)),
        )
        altered = training.positives.clone(), training.negatives.clone()
        for pairs, others in zip(altered, alter(view), strict=True):
            pairs[paired] = others
        return replace(training, positives=altered[0], negatives=altered[1])

    def _scores_of(self, model: GlobalModel) -> Scores:
        return lambda table, vectors: self._recommender.scores(table, model.shared, vectors)

    def _private_vectors(self, model: GlobalModel, run: str) -> PrivateVectors | None:
        return self._private(run, model.items.shape[1]) if self._recommender.private_vectors else None

    def _without_vectors(self, cohort: Cohort) -> Tensor:
        return torch.empty(len(cohort.users), 0)
