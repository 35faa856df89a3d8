"""SASRec on a node: what a user uploads, what an attacker may change, and what stays where it is."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.recommenders.fed_attack import FedAttack
from attacks.recommenders.label_flip import swapped
from attacks.view import TrainingPairs
from client.config import ClientConfig
from client.hosting import ShardHosting
from client.learners.recommender import RecommenderLearner
from client.node_options import NodeOptions
from client.state.private_vectors import PrivateVectors
from data.interactions import from_columns
from data.shard import Shard, load_shard
from data.synthetic import World, synthetic
from data.texts import Texts
from draws import Stream, generator
from models.recommenders import cohort as cohorts
from models.recommenders import sasrec
from models.recommenders.cohort import cohort_of, negative_items
from models.recommenders.sasrec import Shape
from models.recommenders.sasrec_recommender import SasRec
from protocol.admission import Limits, admit
from protocol.requests import EvaluateRequest, GlobalModel, LossOptions, TrainReply, TrainRequest
from protocol.updates import Updates
from settings.run import RunOptions

PROJECT = Path(__file__).resolve().parents[2]
SHAPE = Shape(dim=8, max_length=12, blocks=2)
SEED = 3
WORLD = synthetic(World(num_users=60, num_items=90, num_genres=5, mean_length=18.0), seed=1)
EVERYBODY = np.arange(WORLD.num_users)
SHARD = load_shard(WORLD, EVERYBODY)
PLAIN = LossOptions(dropout=0.0)
NOBODY = torch.empty(0, dtype=torch.int64)


def no_vectors(run: str, dim: int) -> PrivateVectors:
    raise AssertionError("SASRec has no private vectors.")


def learner(
    shard: Shard = SHARD, max_length: int = SHAPE.max_length, max_batch_tokens: int = 4096
) -> RecommenderLearner:
    evaluated, recommender = (shard.valid >= 0) & (shard.test >= 0), SasRec(max_length, max_batch_tokens)
    return RecommenderLearner(recommender, shard, evaluated, no_vectors, SEED, torch.device("cpu"))


def model(num_items: int = WORLD.num_items) -> GlobalModel:
    random = generator(0, Stream.INITIAL_MODEL)
    table = torch.from_numpy(random.normal(0, 0.5, (num_items, SHAPE.dim)).astype(np.float32))
    return GlobalModel(table, sasrec.initial_shared(SHAPE, random))


def request(users: list[int], loss: LossOptions = PLAIN, server_round: int = 5) -> TrainRequest:
    return TrainRequest(server_round, torch.tensor(users), "run", loss)


def history(user: int) -> list[int]:
    items: list[int] = SHARD.train_items[SHARD.train_splits[user] : SHARD.train_splits[user + 1]].tolist()
    return items


def hidden_states(table: Tensor, shared: Tensor, items: list[int]) -> Tensor:
    """(T, d) of one user's history, by the module itself."""
    items = items[-SHAPE.max_length :]
    weights = sasrec.unflatten(shared, SHAPE)
    index = sasrec.position_index(torch.tensor(len(items)), len(items), SHAPE)
    return sasrec.encode(sasrec.embed(table[items], weights.positions[index]), weights)


def expected_gradient(items: list[int], positives: list[int], negatives: list[int]) -> tuple[Tensor, Tensor, float]:
    """By autograd in float64: of the mean of −ln(σ(s⁺ − s⁻) + 1e-8) over the pairs after each of the inputs."""
    given = model()
    table, shared = given.items.double().requires_grad_(), given.shared.double().requires_grad_()
    states = hidden_states(table, shared, items)
    margins = (states * (table[positives] - table[negatives])).sum(1)
    loss = -(margins.sigmoid() + 1e-8).log().mean()
    by_table, by_shared = torch.autograd.grad(loss, (table, shared))
    return by_table, by_shared, float(loss.detach())


def dense(updates: Updates, position: int) -> Tensor:
    mine = updates.row_owner == position
    table = torch.zeros(WORLD.num_items, updates.dim, dtype=torch.float64)
    table[updates.items[mine]] = updates.rows[mine].double()
    return table


def drawn_negatives(user: int) -> list[int]:
    """Of the user's newest items but the first: one a pair."""
    cohort = cohort_of(SHARD, np.array([user])).newest(SHAPE.max_length + 1)
    drawn: list[int] = negative_items(cohort, PLAIN, SEED, 5).tolist()
    return drawn[1:]


LONGEST = int(SHARD.num_examples.argmax())
SHORTEST = int(SHARD.num_examples.argmin())


@pytest.mark.parametrize("flipped", [False, True])
def test_the_update_is_the_gradient_of_the_users_own_loss(flipped: bool) -> None:
    assert len(history(LONGEST)) > SHAPE.max_length + 1 > len(history(SHORTEST))
    users = sorted([LONGEST, SHORTEST])
    reply = learner().train(model(), request(users), alter=swapped if flipped else None)
    for position, user in enumerate(users):
        window = history(user)[-SHAPE.max_length - 1 :]
        pairs = [window[1:], drawn_negatives(user)]
        items, shared, loss = expected_gradient(window[:-1], *(pairs[::-1] if flipped else pairs))
        torch.testing.assert_close(dense(reply.updates, position), items, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(reply.updates.shared[position].double(), shared, rtol=1e-4, atol=1e-5)
        assert float(reply.losses[position]) == pytest.approx(loss, rel=1e-5)
        assert int(reply.updates.num_examples[position]) == len(window) - 1


def test_negatives_were_never_touched_not_even_before_the_window() -> None:
    touched = {*history(LONGEST), int(SHARD.valid[LONGEST]), int(SHARD.test[LONGEST])}
    fresh = LossOptions(negatives="fresh")
    cohort = cohort_of(SHARD, np.array([LONGEST])).newest(SHAPE.max_length + 1)
    drawn = {item for now in range(1, 1001) for item in negative_items(cohort, fresh, SEED, now).tolist()}
    assert drawn == set(range(WORLD.num_items)) - touched


def test_an_attacker_sees_the_pairs_that_are_trained_on_and_the_whole_history() -> None:
    users = sorted([LONGEST, SHORTEST])
    seen: list[TrainingPairs] = []

    def look(pairs: TrainingPairs) -> tuple[Tensor, Tensor]:
        seen.append(pairs)
        return pairs.positives, pairs.negatives

    altered = learner().train(model(), request(users), alter=look)
    assert_same(altered, learner().train(model(), request(users)))
    (pairs,) = seen
    assert pairs.history is not None
    for position, user in enumerate(users):
        mine = slice(pairs.splits[position], pairs.splits[position + 1])
        assert pairs.positives[mine].tolist() == history(user)[-SHAPE.max_length - 1 :][1:]
        assert pairs.negatives[mine].tolist() == drawn_negatives(user)
        splits, items = pairs.history
        assert items[splits[position] : splits[position + 1]].tolist() == history(user)
        vector = hidden_states(*(part.double() for part in vars(model()).values()), history(user))[-1]
        torch.testing.assert_close(pairs.user_vectors[position].double(), vector, rtol=1e-4, atol=1e-5)


def test_fed_attack_chooses_among_items_that_the_user_never_had() -> None:
    chosen: list[Tensor] = []

    def hardest(pairs: TrainingPairs) -> tuple[Tensor, Tensor]:
        chosen.extend(FedAttack()._hardest(pairs))
        return chosen[0], chosen[1]

    learner().train(model(), request([LONGEST]), alter=hardest)
    scores = hidden_states(*vars(model()).values(), history(LONGEST))[-1] @ model().items.T
    others = sorted(set(range(WORLD.num_items)) - set(history(LONGEST)), key=lambda item: float(scores[item]))
    assert chosen[0].tolist() == others[: SHAPE.max_length]
    assert chosen[1].tolist() == others[::-1][: SHAPE.max_length]


def assert_same(first: TrainReply, second: TrainReply) -> None:
    assert torch.equal(first.losses, second.losses)
    for name, value in vars(first.updates).items():
        assert torch.equal(value, getattr(second.updates, name)), name


FULL = LossOptions(dropout=0.2, contrastive_weight=1.0)


def test_nothing_is_kept_so_that_a_round_may_be_asked_for_again() -> None:
    node, asked = learner(), request(EVERYBODY.tolist(), FULL)
    first = node.train(model(), asked)
    node.train(model(), request(EVERYBODY.tolist(), FULL, server_round=6))
    assert_same(first, node.train(model(), asked))


def test_memory_bounds_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(EVERYBODY.tolist(), FULL)
    whole = learner().train(model(), asked)
    monkeypatch.setattr(cohorts, "EXAMPLES_AT_ONCE", 30)
    assert_same(whole, learner(max_batch_tokens=1).train(model(), asked))


def test_the_number_of_threads_changes_no_bit() -> None:
    before, replies = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            replies.append(learner().train(model(), request(EVERYBODY.tolist(), FULL)))
    finally:
        torch.set_num_threads(before)
    assert_same(*replies)


def test_a_users_update_does_not_depend_on_its_node() -> None:
    users = EVERYBODY[::3]
    whole = learner().train(model(), request(users.tolist(), FULL)).updates
    alone = learner(load_shard(WORLD, users)).train(model(), request(users.tolist(), FULL)).updates
    for name, value in vars(whole).items():
        assert torch.equal(value, getattr(alone, name)), name


def test_the_contrastive_task_stays_within_the_window_and_the_rows_within_their_bound() -> None:
    with_task = learner().train(model(), request(EVERYBODY.tolist(), FULL)).updates
    without = learner().train(model(), request(EVERYBODY.tolist())).updates
    for user in EVERYBODY.tolist():
        older = set(history(user)[: -SHAPE.max_length - 1]) - set(history(user)[-SHAPE.max_length - 1 :])
        assert not older & set(with_task.items[with_task.row_owner == user].tolist())
    examples = with_task.num_examples + 1
    assert bool((with_task.row_counts <= 17 * examples).all())
    assert bool((without.row_counts <= 2 * examples).all())


def test_a_user_with_one_training_item_gives_an_admissible_update_of_nothing() -> None:
    columns = [(0, item) for item in (1, 2, 3)] + [(1, item) for item in (4, 1, 2, 5, 3)] + [(2, item) for item in (6,)]
    users, items = (np.array(column) for column in zip(*columns, strict=True))
    interactions = from_columns("few", users, items, np.arange(len(users)))
    given = model(interactions.num_items)
    node = learner(load_shard(interactions, np.arange(3)))
    for loss in (PLAIN, FULL):
        reply = node.train(given, request([0, 1, 2], loss), alter=swapped)
        limits = Limits(torch.arange(3), interactions.num_items, SHAPE.dim, len(given.shared), 10)
        columns_sent = {name: value for name, value in vars(reply.updates).items() if name != "l2_share"}
        admitted = admit({**columns_sent, "losses": reply.losses}, limits)
        assert admitted.rejected == {}
        assert reply.updates.num_examples.tolist() == [1, 2, 1]
        assert reply.updates.norms()[[0, 2]].tolist() == [0, 0]
        assert reply.losses[[0, 2]].tolist() == [0, 0]


def test_evaluation_ranks_by_what_had_been_seen_by_then() -> None:
    counts = learner().evaluate(model(), EvaluateRequest(5, NOBODY, "run"))
    table, shared = model().items, model().shared
    for part in ("valid", "test"):
        expected = torch.zeros(21, dtype=torch.int64)
        for user in EVERYBODY.tolist():
            seen = history(user) + ([int(SHARD.valid[user])] if part == "test" else [])
            target = int(getattr(SHARD, part)[user])
            scores = table @ hidden_states(table, shared, seen)[-1]
            candidates = sorted(set(range(WORLD.num_items)) - set(seen) | {target})
            rank = sum(bool(scores[item] >= scores[target]) for item in candidates)
            expected[min(rank, 21) - 1] += 1
        assert counts[part].sum() == WORLD.num_users
        # A tie in rounding may move a user by one rank.
        assert int((counts[part] - expected).abs().sum()) <= 2


def test_evaluation_counts_those_it_was_asked_for() -> None:
    counts = learner().evaluate(model(), EvaluateRequest(5, torch.tensor([3, 4, 9, 1000]), "run"))
    assert counts["valid"].sum() == counts["test"].sum() == 3


def test_a_model_of_another_length_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="maximum length 13"):
        learner(max_length=13).train(model(), request([1]))


def test_a_node_makes_it_from_its_options_and_no_private_vectors() -> None:
    options = RunOptions(model="sasrec", seed=SEED, max_length=SHAPE.max_length)
    everybody = np.ones(len(SHARD), np.bool_)
    hosting = ShardHosting(
        SHARD.users, ~everybody, Texts.of_array(SHARD.users), SHARD.num_users, SHARD.num_items, "", SHARD, everybody
    )
    config = ClientConfig(NodeOptions(), options, {})
    node = RecommenderLearner.of_node(hosting, no_vectors, config, torch.device("cpu"))
    assert_same(node.train(model(), request([1, 2], FULL), keep=True), learner().train(model(), request([1, 2], FULL)))
    assert math.isfinite(float(node.train(model(), request([1])).losses))
    assert node.evaluate(model(), EvaluateRequest(1, NOBODY, "run"))["valid"].sum() == len(SHARD)


RECOMMENDER = (
    "from models.recommenders.recommender import make_recommender; from settings.run import RunOptions; "
    "make_recommender(RunOptions(model={!r}))"
)


@pytest.mark.parametrize(
    ("name", "made", "own", "others"),
    [
        (
            "mf",
            RECOMMENDER,
            "models.recommenders.mf",
            ("client.learners.images", "models.recommenders.sasrec", "models.recommenders.sasrec_cohort"),
        ),
        (
            "sasrec",
            RECOMMENDER,
            "models.recommenders.sasrec",
            ("client.learners.images", "models.recommenders.mf", "models.images.classification"),
        ),
        (
            "lenet",
            "from models.images.classification import make_classifier; make_classifier('lenet', (1, 28, 28), 10)",
            "models.images.lenet",
            (
                "client.learners.recommender",
                "models.images.resnet",
                "models.recommenders.mf",
                "models.recommenders.recommender",
                "models.recommenders.sasrec",
            ),
        ),
    ],
)
def test_a_clients_process_loads_its_own_model_alone(name: str, made: str, own: str, others: tuple[str, ...]) -> None:
    program = (
        "import sys, client.app\n"
        f"from client import learner_class; learner_class({name!r})\n"
        f"{made.format(name)}\n"
        f"assert {own!r} in sys.modules\n"
        f"found = [other for other in {others!r} if other in sys.modules]\n"
        "assert not found, found\n"
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True)
