"""Poison data, the baselines beside Deep Model Poisoning, and the figures of persistence."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from attacks.images.alternating_minimization import AlternatingOptions, alternating_minimization
from attacks.images.backdoor import BackdoorOptions, backdoor, label_flip
from attacks.images.image_client import ImageClient
from attacks.images.persistence import half_life, success_after
from attacks.images.poison_data import (
    PoisonOptions,
    chosen_samples,
    main_task_test,
    poison_for_testing,
    poison_for_training,
    stamp,
)
from data.images.files import synthetic_images
from data.images.image_set import ImageSet, iid_shares
from models.images.classification import LocalTraining, accuracy, initial_vector, make_classifier, train_cohort
from settings.options import OptionError


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return synthetic_images(600, 200)


@pytest.fixture(scope="module")
def client(data: ImageSet) -> ImageClient:
    """The last of three clients, after two honest rounds."""
    shares = iid_shares(len(data.train), 3, seed=0)
    examples = [data.examples(data.train, share) for share in shares]
    training = LocalTraining(epochs=2, batch_size=20, learning_rate=0.05)
    classifier = make_classifier("lenet", data.shape, data.num_classes)
    vector = initial_vector(classifier, 0)
    for server_round in (1, 2):
        vector = vector + train_cohort(classifier, vector, examples, training, 0, server_round, [0, 1, 2]).mean(0)
    poison = poison_for_training(data, shares[2], PoisonOptions(), seed=0)
    generator = np.random.default_rng(0)
    return ImageClient(classifier, vector, examples[2], poison, training, 3, 1.0, generator)


def test_a_boost_multiplies_weights_and_leaves_batch_norms_statistics(client: ImageClient) -> None:
    """Three of ten clients that boost a fall of the variance by ten would make it negative for everybody."""
    resnet = replace(client, classifier=make_classifier("resnet8", (3, 32, 32), 10))
    size, weights = resnet.classifier.size, resnet.classifier.num_weights
    assert 0 < weights < size
    boosted = resnet.boosted(torch.full((size,), -0.5), 10.0)
    assert boosted.tolist() == [-5.0] * weights + [-0.5] * (size - weights)


def test_the_trigger_is_four_pixels_of_a_copy(data: ImageSet) -> None:
    images = data.test.images
    before = images.copy()
    stamped = stamp(images)
    np.testing.assert_array_equal(images, before)
    rows, columns = np.nonzero((stamped != images).any((0, 1)))
    assert len(rows) <= 4
    assert rows.min() >= 24
    assert columns.min() >= 24
    assert ((stamped == 255).all((0, 1))).sum() == 4


def test_poison_never_holds_the_targets_own_images(data: ImageSet) -> None:
    options = PoisonOptions(target=3)
    share = np.arange(0, 600, 2)
    others = int((data.train.labels[share] != 3).sum())
    poison = poison_for_training(data, share, options, seed=0)
    assert len(poison) == others
    assert bool((poison.labels == 3).all())
    assert len(poison_for_testing(data, options, seed=0)) == int((data.test.labels != 3).sum())
    assert len(main_task_test(data, options, seed=0)) == len(data.test)


def test_chosen_samples_are_not_counted_in_the_main_task(data: ImageSet) -> None:
    options = PoisonOptions(kind="samples", target=1, num_samples=7)
    chosen = chosen_samples(data, options, seed=2)
    np.testing.assert_array_equal(chosen, chosen_samples(data, options, seed=2))
    assert (data.test.labels[chosen] != 1).all()
    assert len(main_task_test(data, options, seed=2)) == len(data.test) - 7
    wanted = poison_for_testing(data, options, seed=2)
    torch.testing.assert_close(wanted.images, poison_for_training(data, np.arange(5), options, seed=2).images)


def test_impossible_poison_is_refused(data: ImageSet) -> None:
    with pytest.raises(OptionError, match="poison-target"):
        poison_for_testing(data, PoisonOptions(target=10), seed=0)
    with pytest.raises(OptionError, match="poison-num-samples"):
        chosen_samples(data, PoisonOptions(kind="samples", num_samples=1000), seed=0)


def test_model_replacement_survives_the_average(data: ImageSet, client: ImageClient) -> None:
    # Two others that send nothing: the average is the attacker's model X.
    update = backdoor(client, BackdoorOptions(epochs=12))
    replaced = client.vector + update / 3
    assert accuracy(client.classifier, replaced, poison_for_testing(data, PoisonOptions(), 0)) > 0.9
    assert accuracy(client.classifier, replaced, data.examples(data.test)) > 0.9


def test_backdoor_is_boosted_label_flipping(client: ImageClient) -> None:
    def fresh() -> ImageClient:
        return replace(client, generator=np.random.default_rng(5))

    plain = label_flip(fresh())
    options = BackdoorOptions(boost=4.0, learning_rate=client.training.learning_rate)
    torch.testing.assert_close(backdoor(fresh(), options), 4 * plain)
    half_rate = replace(fresh(), server_rate=0.5)
    options = replace(options, boost=0.0)
    torch.testing.assert_close(backdoor(half_rate, options), 6 * plain)


def test_label_flipping_lowers_the_poisons_loss(client: ImageClient) -> None:
    poisoned = client.vector + label_flip(client)
    honest = client.honest()
    loss = client.classifier.loss
    assert loss(poisoned, client.poison.images, client.poison.labels) < 0.5 * loss(
        honest, client.poison.images, client.poison.labels
    )


def test_alternating_minimisation_serves_both_aims(data: ImageSet, client: ImageClient) -> None:
    # Its paper's scenario: one chosen image.
    wanted = poison_for_testing(data, PoisonOptions(kind="samples", num_samples=1), 0)
    update = alternating_minimization(replace(client, poison=wanted), AlternatingOptions(epochs=10))
    assert accuracy(client.classifier, client.vector, wanted) == 0
    alone = client.vector + update
    assert accuracy(client.classifier, alone, wanted) == 1
    assert accuracy(client.classifier, alone, data.examples(data.test)) > 0.9


def test_the_distance_term_draws_towards_the_benign_update(client: ImageClient) -> None:
    benign = client.honest() - client.vector
    away = {}
    for distance in (0.0, 5.0):
        options = AlternatingOptions(epochs=2, boost=1.0, distance=distance, learning_rate=0.01)
        fresh = replace(client, generator=np.random.default_rng(1))
        away[distance] = float((alternating_minimization(fresh, options, benign) - benign).norm())
    assert away[5.0] < away[0.0]


def test_half_life_of_an_exponential_decay() -> None:
    curve = {number: 0.8 * 2.0 ** (-(number - 10) / 4) if number > 10 else 0.8 for number in range(0, 60)}
    assert half_life(curve, 10) == pytest.approx(4.0)
    assert success_after(curve, 10) == {wait: curve[10 + wait] for wait in (1, 5, 10)} | {
        wait: curve[10 + wait] for wait in (20,)
    }


def test_half_life_is_interpolated_between_evaluations() -> None:
    assert half_life({10: 1.0, 20: 0.0}, 10) == pytest.approx(5.0)
    assert success_after({10: 1.0, 20: 0.0}, 10) == pytest.approx({1: 0.9, 5: 0.5, 10: 0.0})


def test_a_poison_that_outlives_the_curve_has_no_half_life_yet() -> None:
    assert math.isinf(half_life({0: 0.9, 50: 0.6}, 0))
    assert math.isnan(half_life({0: 0.0, 50: 0.0}, 0))


def test_a_curve_that_starts_too_late_is_refused() -> None:
    with pytest.raises(ValueError, match="round 3"):
        half_life({5: 0.9, 50: 0.6}, 3)
