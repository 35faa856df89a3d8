"""The L2 term of the private vectors: the node adds it, for the server, which adds it elsewhere, never has them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from client.learners.recommender import RecommenderLearner
from client.state.private_vectors import PrivateVectors
from client.state.store import Store
from data.interactions import from_columns, leave_one_out
from data.shard import shard_of
from models.recommenders.mf_recommender import MatrixFactorization
from protocol.requests import GlobalModel, LossOptions, TrainRequest
from protocol.updates import Updates

USERS, ITEMS, DIM, SEED, RUN = 6, 15, 8, 3, "run"
FIRST_MOMENT = 0.1
"""Adam's 1 − β₁."""


def trained(weight_decay: float) -> tuple[Updates, Tensor, Tensor]:
    """What everybody uploads in round 1; their vectors before it, and the first moments after it (USERS, DIM)."""
    rows = [(user, item) for user in range(USERS) for item in range(ITEMS) if (user + item) % 3]
    users, items = (np.array(column) for column in zip(*rows, strict=True))
    shard = shard_of(leave_one_out(from_columns("few", users, items, np.arange(len(rows)))), np.arange(USERS))
    store = Store(None)
    private = PrivateVectors(store, USERS, DIM, SEED)
    everybody, device = np.ones(USERS, np.bool_), torch.device("cpu")
    learner = RecommenderLearner(MatrixFactorization(), shard, everybody, lambda run, dim: private, SEED, device)
    model = GlobalModel(torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(1)), torch.empty(0))
    loss = LossOptions(dropout=0.0, weight_decay=weight_decay)
    before = private.at(np.arange(USERS), 1, loss.learning_rate).vectors.clone()
    with store.begin():
        store.begin_run(())
        store.begin_round(1)
        reply = learner.train(model, TrainRequest(1, torch.arange(USERS), RUN, loss))
    with store.begin():
        kept, _ = store.vectors(np.arange(USERS), DIM)
    return reply.updates, before, torch.from_numpy(kept[:, 1].copy())


def test_it_is_in_the_private_vectors_gradient_and_in_no_upload() -> None:
    decay = 0.5
    (uploads, before, moments), (without, _, plain) = trained(decay), trained(0.0)
    # d/dp of λ/2 ‖p‖² is λp, and a first moment after one step is (1 − β₁) times the gradient.
    torch.testing.assert_close(moments - plain, FIRST_MOMENT * decay * before)
    assert torch.equal(uploads.rows, without.rows)
    assert torch.equal(uploads.l2_share, torch.ones(USERS))
