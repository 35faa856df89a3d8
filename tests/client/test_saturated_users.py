"""A user who touched every item has no negatives: it alone has no pairs, and nobody of its node notices."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from client.config import client_config
from client.hosting import host_interactions
from client.learners.learner import Learner
from client.learners.recommender import RecommenderLearner
from client.state.private_vectors import PrivateVectors
from client.state.store import Store
from data.interactions import Interactions, from_columns, leave_one_out
from data.shard import shard_of
from models.recommenders import sasrec
from models.recommenders.cohort import cohort_of, contrastive_draws, negative_items
from models.recommenders.mf_recommender import MatrixFactorization
from models.recommenders.sasrec import Shape
from models.recommenders.sasrec_recommender import SasRec
from protocol.requests import EvaluateRequest, GlobalModel, LossOptions, TrainRequest
from server.simulation import default_options, simulate

ITEMS, DIM, SEED = 12, 8, 3
SATURATED = (0, 4)
SHAPE = Shape(DIM, 10)


def interactions() -> Interactions:
    rows = [(user, item) for user in range(7) for item in range(ITEMS) if user in SATURATED or (user + item) % 3]
    users, items = (np.array(column) for column in zip(*rows, strict=True))
    return from_columns("saturated", users, items, np.arange(len(rows)))


SHARD = shard_of(leave_one_out(interactions()), np.arange(7))


def learner(name: str) -> Learner:
    everybody, device = np.ones(len(SHARD), np.bool_), torch.device("cpu")
    recommender = MatrixFactorization() if name == "mf" else SasRec(SHAPE.max_length)

    def private(run: str, dim: int) -> PrivateVectors:
        return PrivateVectors(Store(None), 7, dim, SEED)

    return RecommenderLearner(recommender, SHARD, everybody, private, SEED, device)


def model(name: str) -> GlobalModel:
    generator = torch.Generator().manual_seed(1)
    shared = torch.empty(0) if name == "mf" else torch.randn(sasrec.shared_size(SHAPE), generator=generator) * 0.1
    return GlobalModel(torch.randn(ITEMS, DIM, generator=generator), shared)


@pytest.mark.parametrize("contrast", [0.0, 1.0])
@pytest.mark.parametrize("name", ["mf", "sasrec"])
def test_the_others_train_as_without_it_and_it_uploads_nothing(name: str, contrast: float) -> None:
    loss = LossOptions(contrastive_weight=contrast)
    replies = [
        learner(name).train(model(name), TrainRequest(2, torch.tensor(users), "run", loss), keep=False)
        for users in (list(range(7)), [1, 2, 3, 5, 6], list(SATURATED))
    ]
    together, others, alone = (reply.updates for reply in replies)
    saturated = torch.isin(together.users, torch.tensor(SATURATED))
    rest = together.select(~saturated)
    for field in ("users", "num_examples", "row_splits", "items", "rows", "shared"):
        assert torch.equal(getattr(rest, field), getattr(others, field)), field
    for updates in (together.select(saturated), alone):
        assert updates.num_examples.tolist() == [1, 1]
        assert not len(updates.rows)
        assert not updates.shared.any()
    assert torch.equal(replies[0].losses[~saturated], replies[1].losses)
    assert torch.equal(replies[2].losses, torch.zeros(2))


@pytest.mark.parametrize("name", ["mf", "sasrec"])
def test_an_attack_sees_it_without_pairs(name: str) -> None:
    seen = []

    def alter(pairs):  # type: ignore[no-untyped-def]
        seen.append(pairs)
        return pairs.positives, pairs.negatives

    request = TrainRequest(2, torch.arange(7), "run", LossOptions())
    altered = learner(name).train(model(name), request, alter=alter, keep=False)
    assert torch.equal(altered.updates.rows, learner(name).train(model(name), request, keep=False).updates.rows)
    counts = seen[0].splits.diff()
    assert counts[list(SATURATED)].tolist() == [0, 0]
    assert bool((counts[[1, 2, 3, 5, 6]] > 0).all())
    assert bool(seen[0].user_vectors.isfinite().all())


@pytest.mark.parametrize("name", ["mf", "sasrec"])
def test_it_is_evaluated_like_anybody(name: str) -> None:
    nobody = torch.empty(0, dtype=torch.int64)
    counts = learner(name).evaluate(model(name), EvaluateRequest(1, nobody, "run"))
    assert counts["test"].sum() == len(SHARD)
    # The held-out item is the only candidate of who touched all others.
    assert counts["test"][0] >= len(SATURATED)


def test_drawing_for_it_is_an_error_that_names_it_and_for_others_beside_it_none() -> None:
    loss = LossOptions(contrastive_weight=1.0)
    assert len(negative_items(cohort_of(SHARD, np.array([1, 2, 3])), loss, SEED, 1))
    saturated = cohort_of(SHARD, np.array([1, 4, 2]))
    with pytest.raises(ValueError, match="User 4 has touched every item"):
        negative_items(saturated, loss, SEED, 1)
    with pytest.raises(ValueError, match="User 4 has touched every item"):
        contrastive_draws(saturated, loss, SEED, 1, DIM)


def write(path: Path) -> str:
    held = interactions()
    rows = [(user, item) for user in range(7) for item in held.items[held.splits[user] : held.splits[user + 1]]]
    lines = [f"{user}\t{item}\t{k}" for k, (user, item) in enumerate(rows)]
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(lines) + "\n")
    return str(path)


def test_its_node_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {**default_options(), "dataset": write(tmp_path / "saturated.inter")}
    logging.getLogger("flwr").propagate = True
    with caplog.at_level(logging.WARNING):
        host_interactions(client_config(options, {}), None)
    assert "2 users of this node touched every item" in caplog.text


def test_a_run_with_such_users_fails_in_no_round(tmp_path: Path) -> None:
    options = {"dataset": write(tmp_path / "saturated.inter"), "engine": "local", "num-nodes": 1, "embedding-dim": DIM}
    options |= {"num-server-rounds": 4, "eval-every": 4, "clients-per-round": 7, "tracker": "none"}
    options |= {"attack": "fed-attack", "malicious-fraction": 0.5, "defense": "union", "checkpoint-every": 0}
    _, summary = simulate({**options, "output-dir": str(tmp_path / "runs")})
    assert (summary["skipped_rounds"], summary["failed_answers"], summary["rejected"]) == (0, 0, {})
