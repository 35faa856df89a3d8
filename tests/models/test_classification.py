"""Classifiers as functions of a vector, and local training against torch's own modules and optimizer."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import draws
from data.images.files import synthetic_images
from data.images.image_set import Examples
from draws import Stream
from models.images.classification import (
    LARGEST_LOSS,
    Classifier,
    LocalTraining,
    accuracy,
    assess,
    fit,
    initial_vector,
    make_classifier,
    train,
    train_cohort,
)
from models.images.lenet import LeNet
from models.images.resnet import ResNet, resnet8, resnet18
from settings.options import OptionError, read


def _tiny_resnet() -> ResNet:
    return ResNet(1, 3, (4, 6), depth=1)


def _examples(count: int, size: int = 8, classes: int = 3, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, size, size, generator=generator)
    return Examples(images, torch.randint(0, classes, (count,), generator=generator))


def _vector_of(module: nn.Module) -> torch.Tensor:
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    return torch.cat([tensor.detach().flatten() for tensor in [*module.parameters(), *buffers]])


def test_parameter_counts_are_the_architectures() -> None:
    # LeNet-5 with full connections: 156 + 2,416 + 48,120 + 10,164 + 850.
    assert make_classifier("lenet", (1, 28, 28), 10).size == 61_706
    convolutions = 3 * 16 * 9 + 16 * 16 * 9 * 2 + (16 * 32 + 32 * 32) * 9 + 16 * 32 + (32 * 64 + 64 * 64) * 9 + 32 * 64
    norms = 2 * (16 + 16 + 16 + 32 + 32 + 32 + 64 + 64 + 64)
    resnet = make_classifier("resnet8", (3, 32, 32), 10)
    assert resnet.num_weights == convolutions + norms + 650
    assert resnet.size - resnet.num_weights == norms
    assert make_classifier("resnet18", (3, 32, 32), 10).num_weights == 11_173_962


def test_unflatten_and_flatten_are_inverse() -> None:
    classifier = Classifier(_tiny_resnet())
    vector = torch.arange(classifier.size, dtype=torch.float32)
    assert torch.equal(classifier.flatten(classifier.unflatten(vector)), vector)


def test_layers_cover_the_weights_in_order_and_hold_bias_and_kernel_together() -> None:
    classifier = make_classifier("lenet", (1, 28, 28), 10)
    assert [layer.stop - layer.start for layer in classifier.layers] == [156, 2_416, 48_120, 10_164, 850]
    resnet = Classifier(_tiny_resnet())
    ends = [layer.stop for layer in resnet.layers]
    assert [layer.start for layer in resnet.layers] == [0, *ends[:-1]]
    assert ends[-1] == resnet.num_weights


def test_logits_are_the_modules_own() -> None:
    for module in (LeNet(1, 28), _tiny_resnet(), resnet8()):
        module.eval()
        channels = next(module.parameters()).shape[1]
        images = torch.randn(2, channels, 28, 28, generator=torch.Generator().manual_seed(0))
        classifier = Classifier(copy.deepcopy(module))
        logits = classifier.logits(classifier.unflatten(_vector_of(module)), images)
        torch.testing.assert_close(logits, module(images))


def test_lenet_takes_two_sizes_and_no_other() -> None:
    assert LeNet(3, 32)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(ValueError, match="28 or 32"):
        LeNet(1, 30)


def test_resnet18_halves_the_image_three_times() -> None:
    with torch.device("meta"):
        network = resnet18()
        features = network.blocks(network.stem(torch.empty(2, 3, 32, 32)))
    assert features.shape == (2, 512, 4, 4)


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(OptionError, match="lenet"):
        make_classifier("vgg", (1, 28, 28), 10)


def test_initial_vector_depends_on_the_seed_alone() -> None:
    classifier = make_classifier("resnet8", (3, 32, 32), 10)
    vector = initial_vector(classifier, 4)
    assert torch.equal(vector, initial_vector(classifier, 4))
    assert not torch.equal(vector, initial_vector(classifier, 5))
    tensors = classifier.unflatten(vector)
    assert bool((tensors["stem.1.running_var"] == 1).all())
    assert bool((tensors["stem.1.running_mean"] == 0).all())
    assert float(tensors["blocks.2.conv2.weight"].var()) == pytest.approx(2 / (64 * 9), rel=0.05)


@pytest.mark.parametrize("count", [32, 37, 5])
def test_training_is_torchs_sgd_over_the_same_batches(count: int) -> None:
    module = _tiny_resnet()
    classifier = Classifier(copy.deepcopy(module))
    examples = _examples(count)
    training = LocalTraining(epochs=2, batch_size=16, learning_rate=0.1)
    start = _vector_of(module)
    trained = train(classifier, start, examples, training, draws.generator(1, Stream.BATCHES, 2, 3))

    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    generator = draws.generator(1, Stream.BATCHES, 2, 3)
    module.train()
    for _ in range(2):
        order = torch.from_numpy(generator.permutation(count))
        for batch in order.split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(examples.images[batch]), examples.labels[batch]).backward()
            optimizer.step()
    torch.testing.assert_close(trained, _vector_of(module))
    assert not torch.equal(trained[classifier.num_weights :], start[classifier.num_weights :])


def test_a_clients_upload_does_not_depend_on_who_else_is_trained() -> None:
    classifier = Classifier(_tiny_resnet())
    vector = initial_vector(classifier, 0)
    before = vector.clone()
    shares = [_examples(20 + 7 * user, seed=user) for user in range(3)]
    training = LocalTraining(epochs=1, batch_size=8, learning_rate=0.05)
    together = train_cohort(classifier, vector, shares, training, 9, 4, [10, 11, 12])
    alone = train_cohort(classifier, vector, shares[1:2], training, 9, 4, [11])
    assert together.shape == (3, classifier.size)
    assert torch.equal(together[1], alone[0])
    assert torch.equal(vector, before)
    assert not torch.equal(alone, train_cohort(classifier, vector, shares[1:2], training, 9, 5, [11]))


def test_accuracy_counts_right_answers() -> None:
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3, 3, bias=False)))
    examples = Examples(torch.eye(3).repeat(400, 1).view(1200, 1, 1, 3), torch.tensor([0, 1, 0]).repeat(400))
    assert accuracy(classifier, torch.eye(3).flatten(), examples) == pytest.approx(2 / 3)


def test_federated_averaging_learns_synthetic_images() -> None:
    data = synthetic_images(600, 200)
    classifier = make_classifier("lenet", data.shape, data.num_classes)
    vector = initial_vector(classifier, 0)
    shares = [data.examples(data.train, part) for part in np.array_split(np.arange(600), 3)]
    training = LocalTraining(epochs=2, batch_size=20, learning_rate=0.05)
    for server_round in range(1, 4):
        vector = vector + train_cohort(classifier, vector, shares, training, 0, server_round, [0, 1, 2]).mean(0)
    assert accuracy(classifier, vector, data.examples(data.test)) > 0.95


def test_bad_training_options_are_named() -> None:
    with pytest.raises(OptionError, match="local-epochs"):
        read(LocalTraining, {"local-epochs": 0}, "local")
    with pytest.raises(OptionError, match="local-learning-rate"):
        read(LocalTraining, {"local-learning-rate": 0.0}, "local")


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_lenet_is_convolution_then_average_pooling(channels: int, size: int) -> None:
    """The oracle is LeCun's order of steps, one torch function each."""
    torch.manual_seed(2)
    net = LeNet(channels, size).double()
    images = torch.randn(5, channels, size, size, dtype=torch.float64)
    hidden = images
    for layer in (net.conv1, net.conv2):
        hidden = nn.functional.avg_pool2d(layer(hidden), 2).relu()
    expected = net.fc3(net.fc2(net.fc1(hidden.flatten(1)).relu()).relu())
    torch.testing.assert_close(net(images), expected)


def test_accuracy_and_loss_are_those_of_all_examples_at_once() -> None:
    module = _tiny_resnet().eval()
    classifier, examples = Classifier(module), _examples(1203)
    logits = module(examples.images).detach()
    found = assess(classifier, _vector_of(module), examples)
    assert found[0] == float((logits.argmax(1) == examples.labels).double().mean())
    assert found[1] == pytest.approx(float(nn.functional.cross_entropy(logits, examples.labels)), rel=1e-5)


def test_a_diverged_models_loss_is_a_number() -> None:
    classifier, data = make_classifier("lenet", (1, 28, 28), 10), synthetic_images(10, 1)
    assert assess(classifier, torch.full((classifier.size,), 1e30), data.examples(data.train))[1] == LARGEST_LOSS


@pytest.mark.parametrize("value", [1e30, 0.0])
def test_a_network_whose_logits_are_no_numbers_or_all_alike_gets_nothing_right(value: float) -> None:
    """Not even the first class, which ``argmax`` falls back on: poison inputs often have that label."""
    classifier, data = make_classifier("lenet", (1, 28, 28), 10), synthetic_images(10, 1)
    examples = data.examples(data.train)
    first = Examples(examples.images, torch.zeros_like(examples.labels))
    assert assess(classifier, torch.full((classifier.size,), value), first)[0] == 0


def test_weighted_losses_are_a_sum_of_means() -> None:
    classifier, one, other = Classifier(_tiny_resnet()), _examples(4), _examples(6, seed=1)
    vector, both = initial_vector(classifier, 3), one.join(other)
    weights = torch.cat([torch.full((4,), 0.5 / 4), torch.full((6,), 1 / 6)])
    expected = 0.5 * classifier.loss(vector, one.images, one.labels) + classifier.loss(
        vector, other.images, other.labels
    )
    torch.testing.assert_close(classifier.loss(vector, both.images, both.labels, weights), expected)


def test_the_loss_of_training_is_the_last_epochs() -> None:
    """With a rate of almost nothing every epoch's loss is the first model's."""
    classifier, examples = make_classifier("lenet", (1, 28, 28), 10), synthetic_images(50, 1)
    clean = examples.examples(examples.train)
    start = initial_vector(classifier, 0)
    training = LocalTraining(epochs=2, batch_size=16, learning_rate=1e-12)
    _, loss = fit(classifier, start, clean, training, np.random.default_rng(0))
    assert loss == pytest.approx(float(classifier.loss(start, clean.images, clean.labels)), rel=1e-4)
