"""Deep Model Poisoning: what its importances, its region and its upload must be."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.images.deep_poisoning import DeepPoisoningOptions, Region, clipped, deep_poisoning, descend
from attacks.images.image_client import ImageClient
from attacks.images.importance import FLOOR, fisher_diagonal, hutchinson_diagonal, normalised, redundant_set
from data.images.image_set import Examples
from models.images.classification import Classifier, LocalTraining, initial_vector
from models.images.resnet import ResNet
from settings.options import OptionError, read


def _client(module: nn.Module | None = None, seed: int = 0) -> ImageClient:
    classifier = Classifier(module or nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3)))
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(60, 1, 6, 6, generator=generator)
    labels = images.flatten(1)[:, :3].argmax(1)
    poison = images.clone()
    poison[:, :, -1, -1] = 4.0
    return ImageClient(
        classifier,
        initial_vector(classifier, seed),
        Examples(images, labels),
        Examples(poison, torch.zeros(60, dtype=torch.int64)),
        LocalTraining(epochs=2, batch_size=16, learning_rate=0.1),
        clients_per_round=10,
        server_rate=0.5,
        generator=np.random.default_rng(seed),
    )


def _fresh(client: ImageClient) -> ImageClient:
    return replace(client, generator=np.random.default_rng(7))


def test_fisher_of_a_linear_gaussian_model_is_its_normal_matrix() -> None:
    # y = Xw + noise of variance 1: E[(∂ ln p/∂w_j)²] = E[r²] x_j², and residuals of ±1 have r² = 1 exactly.
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, generator=generator, dtype=torch.float64)
    noise = torch.randint(0, 2, (40,), generator=generator) * 2.0 - 1
    examples = Examples(design, design @ weights + noise)
    fisher = fisher_diagonal(lambda w, x, y: -((y - x @ w) ** 2) / 2, weights, examples)
    torch.testing.assert_close(fisher, (design.T @ design).diagonal() / 40)


def test_fisher_of_a_classifier_is_the_mean_of_squared_gradients_taken_one_by_one() -> None:
    client = _client(ResNet(1, 3, (2, 3), depth=1))
    classifier, vector, clean = client.classifier, client.vector, client.clean
    fisher = fisher_diagonal(lambda v, x, y: -classifier.loss(v, x.unsqueeze(0), y.unsqueeze(0)), vector, clean)
    total = torch.zeros_like(vector)
    for index in range(len(clean)):
        total += client.loss_gradient(vector, clean.select(torch.tensor([index]))).square()
    weights = slice(0, classifier.num_weights)
    torch.testing.assert_close(fisher[weights], total[weights] / len(clean), rtol=1e-4, atol=1e-8)


def test_hutchinson_is_exact_on_a_diagonal_quadratic() -> None:
    curvature = torch.tensor([3.0, 0.0, 0.5, 7.0, -2.0], dtype=torch.float64)

    def loss(vector: Tensor) -> Tensor:
        return (curvature * vector.square()).sum() / 2

    estimate = hutchinson_diagonal([(loss, 1.0)], torch.randn(5, dtype=torch.float64), np.random.default_rng(0))
    torch.testing.assert_close(estimate, curvature)


def test_hutchinson_is_unbiased_on_any_quadratic() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    hessian = root @ root.T

    def loss(vector: Tensor) -> Tensor:
        return vector @ hessian @ vector / 2

    probes = 4000
    estimate = hutchinson_diagonal([(loss, 1 / probes)] * probes, torch.zeros(4).double(), np.random.default_rng(0))
    # A probe's error at j has variance Σ_{k≠j} H_jk².
    deviation = (hessian.square().sum(1) - hessian.diagonal().square()).div(probes).sqrt()
    assert bool(((estimate - hessian.diagonal()).abs() < 5 * deviation).all())


def test_normalised_importance_is_comparable_between_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    importance = torch.rand(300, generator=generator)
    importance[0] = -1.0
    layers = (slice(0, 100), slice(100, 300))
    scaled = importance.clone()
    scaled[layers[1]] *= 1e6
    result = normalised(importance, layers)
    torch.testing.assert_close(normalised(scaled, layers), result)
    assert float(result.min()) == pytest.approx(FLOOR)
    for layer in layers:
        raw = importance[layer].clamp(min=0) / importance[layer].clamp(min=0).mean()
        inside = (raw > FLOOR) & (raw < np.quantile(raw.numpy(), 0.98))
        torch.testing.assert_close(result[layer][inside], raw[inside])
        assert float(result[layer].max()) < float(raw.max())
    assert bool((normalised(torch.zeros(10), (slice(0, 10),)) == torch.tensor(FLOOR)).all())


@pytest.mark.parametrize("quantile", [0.1, 0.5, 1.0])
def test_the_redundant_set_is_the_least_important_of_each_layer(quantile: float) -> None:
    importance = torch.rand(120, generator=torch.Generator().manual_seed(1))
    layers = (slice(0, 50), slice(50, 120))
    chosen = redundant_set(importance, layers, quantile)
    for layer in layers:
        assert int(chosen[layer].sum()) == int(quantile * (layer.stop - layer.start))
        if quantile < 1:
            assert importance[layer][chosen[layer]].max() < importance[layer][~chosen[layer]].min()


@pytest.mark.parametrize("importance", ["fisher", "hessian"])
@pytest.mark.parametrize("penalty", [1e9, 1e12])
def test_a_large_penalty_leaves_the_benign_reference(penalty: float, importance: str) -> None:
    options = read(DeepPoisoningOptions, {"p-penalty": penalty, "p-importance": importance}, "p")
    result = deep_poisoning(_client(), options)
    above = result.region.importance > FLOOR
    assert bool(above.any())
    assert float((result.vector - result.region.reference)[above].abs().max()) < 1e-4


def test_without_penalty_it_moves_and_poisons() -> None:
    client = _client()
    options = DeepPoisoningOptions(penalty=0.0, norm_factor=3.0, epochs=20)
    result = deep_poisoning(client, options)
    before = float(client.classifier.loss(result.region.reference, client.poison.images, client.poison.labels))
    after = float(client.classifier.loss(result.vector, client.poison.images, client.poison.labels))
    assert after < before / 2


def test_a_penalty_protects_what_matters_to_the_main_task() -> None:
    moved = {}
    for penalty in (0.0, 10.0):
        result = deep_poisoning(_client(), DeepPoisoningOptions(penalty=penalty, norm_factor=5.0))
        offset = (result.vector - result.region.reference).square()
        moved[penalty] = float((offset * result.region.importance).sum() / offset.sum())
    assert moved[10.0] < moved[0.0] / 2


@pytest.mark.parametrize("quantile", [0.05, 0.5])
def test_outside_the_redundant_set_nothing_moves_by_a_bit(quantile: float) -> None:
    client = _client(ResNet(1, 3, (2, 3), depth=1))
    result = deep_poisoning(client, DeepPoisoningOptions(quantile=quantile, penalty=0.1, norm_factor=1.0))
    outside = ~result.region.free
    assert torch.equal(result.vector[outside], result.region.reference[outside])
    assert not torch.equal(result.vector, result.region.reference)


def test_batchnorms_statistics_stay_the_benign_references() -> None:
    client = _client(ResNet(1, 3, (2, 3), depth=1))
    result = deep_poisoning(client, DeepPoisoningOptions(penalty=0.0))
    statistics = slice(client.classifier.num_weights, None)
    assert torch.equal(result.vector[statistics], result.region.reference[statistics])
    assert not torch.equal(result.vector[statistics], client.vector[statistics])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("factor", [1.0, 1.2])
@pytest.mark.parametrize(("boost", "quantile"), [(1.0, 1.0), (1.0, 0.3), (0.0, 1.0), (10.0, 0.3)])
def test_an_upload_is_never_longer_than_the_bound(seed: int, factor: float, boost: float, quantile: float) -> None:
    client = _client(seed=seed)
    options = DeepPoisoningOptions(
        penalty=0.0, norm_factor=factor, boost=boost, quantile=quantile, learning_rate=0.5, epochs=2
    )
    result = deep_poisoning(client, options)
    bound = factor * float((result.region.reference - client.vector).double().norm())
    assert float(result.update.double().norm()) <= bound
    assert float((result.vector - client.vector).double().norm()) <= bound


def test_without_clipping_the_boost_is_whole() -> None:
    options = DeepPoisoningOptions(boost=0.0, clip=False)
    client = _client()
    result = deep_poisoning(client, options)
    torch.testing.assert_close(result.update, 20 * (result.vector - client.vector))


def test_clipping_keeps_the_direction() -> None:
    update = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(clipped(update, 1.0), torch.tensor([0.6, 0.8]))
    assert torch.equal(clipped(update, 6.0), update)


def _quadratic(gradient: Tensor, curvature: Tensor, centre: Tensor) -> Callable[[Tensor], Tensor]:
    """The gradient of a linear poison loss plus the clean loss ½ (θ − θ_b)ᵀ H (θ − θ_b)."""
    return lambda vector: gradient + curvature * (vector - centre)


def _flat_region(quantile: float, penalty: float, radius: float = 10.0) -> tuple[Region, Tensor]:
    curvature = torch.tensor([2.0, 5.0, 0.0, 1.0, 3.0])
    reference = torch.tensor([0.3, -0.2, 0.5, 0.1, 0.0])
    layers = (slice(0, 5),)
    probe = hutchinson_diagonal([(lambda v: (curvature * v.square()).sum() / 2, 1.0)], reference, _generator())
    importance = normalised(probe, layers)
    free = redundant_set(importance, layers, quantile)
    return Region(torch.zeros(5), reference, radius, importance, free, penalty), curvature


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("quantile", "penalty", "leak"), [(0.2, 0.0, 0.0), (1.0, 1e5, 1e-4)])
def test_on_a_quadratic_with_one_flat_direction_the_poison_moves_along_it_alone(
    quantile: float, penalty: float, leak: float
) -> None:
    region, curvature = _flat_region(quantile, penalty)
    poison = torch.full((5,), -1.0)
    steps = [[_quadratic(poison, curvature, region.reference)] * 20]
    # The floor keeps a little of the penalty on the flat direction: λ·1e-3 must not hold it.
    region = replace(region, importance=torch.where(region.importance > FLOOR, region.importance, 0.0))
    offset = (descend(region, steps, rate=0.05) - region.reference).abs()
    assert float(offset[2]) == pytest.approx(20 * 0.05, rel=1e-4)
    assert float(offset[[0, 1, 3, 4]].max()) <= leak


def test_the_quadratics_minimum_inside_the_ball_is_found() -> None:
    region, curvature = _flat_region(1.0, penalty=4.0)
    region = replace(region, proximity=0.5)
    poison = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    found = descend(region, [[_quadratic(poison, curvature, region.reference)] * 4000], rate=0.05)
    # 0 = poison + H(θ − θ_b) + λΩ(θ − θ_b) + ρ(θ − θ_t), coordinate by coordinate.
    stiffness = curvature + 4.0 * region.importance
    expected = (stiffness * region.reference + 0.5 * region.origin - poison) / (stiffness + 0.5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_projection_is_the_nearest_point_that_agrees_outside_the_free_set() -> None:
    region, _ = _flat_region(0.6, penalty=0.0, radius=1.0)
    far = torch.where(region.free, region.reference + torch.tensor([2.0, 0.0, -3.0, 1.0, 0.5]), region.reference)
    near = region.project(far)
    assert torch.equal(near[~region.free], region.reference[~region.free])
    assert float(near.norm()) == pytest.approx(1.0, abs=1e-5)
    # Nearest on a sphere: what is left to go is parallel to the radius.
    left, offset = (far - near)[region.free], near[region.free]
    assert float(left @ offset / left.norm() / offset.norm()) == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(region.project(near), near)


def test_the_same_randomness_gives_the_same_upload() -> None:
    client, options = _client(), DeepPoisoningOptions(samples=20)
    first = deep_poisoning(_fresh(client), options).update
    assert torch.equal(first, deep_poisoning(_fresh(client), options).update)


@pytest.mark.parametrize(
    ("option", "value"), [("quantile", 0.0), ("norm-factor", 0.9), ("penalty", -1.0), ("importance", "guess")]
)
def test_bad_options_are_named(option: str, value: float | str) -> None:
    with pytest.raises(OptionError, match=f"deep-poisoning-{option}"):
        read(DeepPoisoningOptions, {f"deep-poisoning-{option}": value}, "deep-poisoning")
