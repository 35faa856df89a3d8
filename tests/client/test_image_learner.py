"""Image classification on a node: shares by seed alone, uploads by (seed, round, user), and what an attack gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import draws
from attacks.images.image_client import ImageClient
from attacks.images.poison_data import PoisonOptions
from client.config import client_config
from client.learners.images import ImageHosting, ImageLearner, LocalOptions, host_images
from data.images.files import synthetic_images
from data.images.image_set import VALIDATION_SHARE, allot
from data.texts import Texts
from draws import Stream
from models.images.classification import LocalTraining, initial_vector, make_classifier, train
from models.threads import one_thread
from protocol.requests import EvaluateRequest, GlobalModel, LossOptions, TrainRequest
from server.simulation import default_options
from settings.options import OptionError

SEED = 4
DATA = synthetic_images(300, 60)
TRAINING = LocalTraining(epochs=1, batch_size=16)
OPTIONS = LocalOptions(TRAINING, PoisonOptions(target=3), clients_per_round=5, seed=SEED)
CLASSIFIER = make_classifier("lenet", DATA.shape, 10)
SHARES = allot(DATA.train.labels, 6, 0.0, SEED).shares


def learner(users: list[int], options: LocalOptions = OPTIONS) -> ImageLearner:
    here = np.array(users)
    malicious = np.zeros(len(here), np.bool_)
    hosting = ImageHosting(here, malicious, Texts.of_array(here), 6, 0, "", DATA, [SHARES[user] for user in users])
    return ImageLearner(hosting, "lenet", options, torch.device("cpu"))


def model(seed: int = 0) -> GlobalModel:
    return GlobalModel(torch.empty(0, 0), initial_vector(CLASSIFIER, seed))


def request(users: list[int], server_round: int = 1) -> TrainRequest:
    return TrainRequest(server_round, torch.tensor(users), "run", LossOptions(learning_rate=0.5))


def test_an_upload_is_the_difference_that_training_on_the_own_share_makes() -> None:
    reply = learner([1, 4]).train(model(), request([4, 1], 7))
    assert reply.updates.users.tolist() == [1, 4]
    assert reply.updates.num_examples.tolist() == [len(SHARES[1]), len(SHARES[4])]
    assert reply.updates.rows.shape == (0, 0)
    start = model().shared
    for user, update in zip((1, 4), reply.updates.shared, strict=True):
        generator = draws.generator(SEED, Stream.BATCHES, 7, user)
        with one_thread():
            expected = train(CLASSIFIER, start, DATA.examples(DATA.train, SHARES[user]), TRAINING, generator)
        torch.testing.assert_close(update, expected - start, rtol=0, atol=0)
    assert bool((reply.losses > 0).all())


def test_neither_the_node_nor_the_number_of_threads_changes_an_upload() -> None:
    alone = learner([2]).train(model(), request([2])).updates.shared[0]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = learner([0, 2, 5]).train(model(), request([0, 2, 5])).updates.shared[1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, together)


def test_another_round_draws_other_batches() -> None:
    one, other = (learner([2]).train(model(), request([2], number)).updates.shared for number in (1, 2))
    assert not torch.equal(one, other)


def test_an_attack_gets_each_client_and_gives_its_upload() -> None:
    seen: list[ImageClient] = []

    def alter(client: ImageClient) -> Tensor:
        seen.append(client)
        return torch.full_like(client.vector, float(len(seen)))

    here = learner([1, 3])
    altered = here.train(model(), request([1, 3]), alter=alter, keep=False)
    assert altered.updates.shared[:, 0].tolist() == [1.0, 2.0]
    honest = here.train(model(), request([1, 3]))
    for client, user, update in zip(seen, (1, 3), honest.updates.shared, strict=True):
        assert torch.equal(client.honest() - client.vector, update)
        torch.testing.assert_close(client.clean.images, DATA.examples(DATA.train, SHARES[user]).images)
        assert client.poison.labels.unique().tolist() == [3]
        assert (client.clients_per_round, client.server_rate) == (5, 0.5)
    numbers = {client.generator.integers(1 << 60) for client in seen}
    assert len(numbers) == 2


def test_what_is_remembered_of_a_round_never_answers_for_another_model() -> None:
    here = learner([1])
    here.train(model(0), request([1]), keep=False)
    other = here.train(model(1), request([1])).updates.shared
    assert torch.equal(other, learner([1]).train(model(1), request([1])).updates.shared)


def test_a_client_without_anything_to_poison_stays_honest() -> None:
    of_target = np.flatnonzero(DATA.train.labels == 3)[:10]
    hosting = ImageHosting(np.array([0]), np.array([True]), np.array(["0"]), 1, 0, "", DATA, [of_target])
    here = ImageLearner(hosting, "lenet", OPTIONS, torch.device("cpu"))

    def alter(client: ImageClient) -> Tensor:
        raise AssertionError("There is nothing to poison.")

    altered = here.train(model(), request([0]), alter=alter, keep=False).updates.shared
    assert torch.equal(altered, here.train(model(), request([0])).updates.shared)


def test_it_says_whom_it_does_not_host_and_counts_nobody() -> None:
    with pytest.raises(ValueError, match=r"does not host the users \[2\]"):
        learner([1]).train(model(), request([1, 2]))
    assert learner([1]).evaluate(model(), EvaluateRequest(1, torch.empty(0, dtype=torch.int64), "run")) == {}


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_nodes_deal_all_images_out_by_seed_alone(alpha: float) -> None:
    def nodes(seed: int, count: int) -> dict[int, list[int]]:
        run_config = {
            **default_options(),
            "model": "lenet",
            "dataset": "synthetic-images",
            "num-clients": 7,
            "dirichlet-alpha": alpha,
            "seed": seed,
        }
        shares: dict[int, list[int]] = {}
        for number in range(count):
            config = client_config(run_config, {"partition-id": number, "num-partitions": count})
            hosting = host_images(config, None)
            assert (hosting.num_users, hosting.num_items) == (7, 0)
            shares |= {user: share.tolist() for user, share in zip(hosting.users.tolist(), hosting.shares, strict=True)}
        return shares

    one, two = nodes(1, 2), nodes(1, 3)
    assert one == two
    assert sorted(one) == list(range(7))
    total = 2000
    dealt = sorted(index for share in one.values() for index in share)
    assert len(set(dealt)) == len(dealt) == total - round(VALIDATION_SHARE * total)
    assert nodes(2, 2) != one


def test_the_servers_validation_images_are_nobodys() -> None:
    allotment = allot(DATA.train.labels, 6, 0.5, SEED)
    everything = np.concatenate([*allotment.shares, allotment.validation])
    assert sorted(everything.tolist()) == list(range(len(DATA.train)))


def test_a_node_with_a_file_of_its_own_is_refused() -> None:
    with pytest.raises(OptionError, match=r"data = 'mine.csv': expected nothing with model = 'lenet'"):
        client_config({**default_options(), "model": "lenet"}, {"data": "mine.csv"})
