"""Bhagoji's two detectors, each against its definition written out."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from protocol.updates import Updates, make_updates
from settings.options import OptionError
from strategies.chain import compose
from strategies.rule import ServerView
from strategies.rules.accuracy_check import AccuracyCheck
from strategies.rules.distance_range import DistanceRange, range_scores
from strategies.server_model import ServerModel


def _updates(shared: Tensor, num_examples: list[int] | None = None) -> Updates:
    n = len(shared)
    counts = torch.tensor(num_examples or [1] * n)
    nothing = torch.zeros(0, 0)
    splits = torch.zeros(n + 1, dtype=torch.int64)
    return make_updates(torch.arange(n), counts, splits, torch.zeros(0, dtype=torch.int64), nothing, shared)


def _server(model: Tensor, accuracy: object = None) -> ServerView:
    server_model = ServerModel.start(torch.zeros(0, 0), model, 1.0, 0.0, optimizer="sgd")
    return ServerView(1, server_model, 10, np.random.default_rng(0), accuracy)  # type: ignore[arg-type]


def test_the_accuracy_check_compares_each_update_with_the_others_together() -> None:
    seen = []

    def accuracy(vector: Tensor) -> float:
        seen.append(vector)
        return float(1 - (vector - 1).abs().sum() / 10)

    model = torch.tensor([0.5, 0.5])
    shared = torch.tensor([[0.5, 0.5], [0.6, 0.4], [-3.0, 0.5]])
    weights = [1, 2, 1]
    left, verdict = AccuracyCheck().judge(_updates(shared, weights), _server(model, accuracy))
    for user in range(3):
        rest = [other for other in range(3) if other != user]
        others = sum(weights[other] * shared[other] for other in rest) / sum(weights[other] for other in rest)
        alone_score = 1 - float((model + shared[user] - 1).abs().sum()) / 10
        others_score = 1 - float((model + others - 1).abs().sum()) / 10
        assert float(verdict.scores[user]) == pytest.approx(others_score - alone_score, abs=1e-6)
    assert len(seen) == 6
    assert left.users.tolist() == [0, 1]
    assert verdict.kept.tolist() == [True, True, False]


def test_the_accuracy_check_never_drops_everybody() -> None:
    shared = torch.tensor([[1.0], [2.0]])
    scores = iter([0.0, 1.0, 0.0, 1.0])
    left, verdict = AccuracyCheck().judge(_updates(shared), _server(torch.zeros(1), lambda _: next(scores)))
    assert len(left) == 2
    assert verdict.kept.all()


def test_a_single_update_is_kept() -> None:
    left, _ = AccuracyCheck().judge(_updates(torch.ones(1, 3)), _server(torch.zeros(3), lambda v: float(v.sum())))
    assert len(left) == 1


def test_without_a_validation_set_the_accuracy_check_says_so() -> None:
    with pytest.raises(OptionError, match="validation set"):
        AccuracyCheck().judge(_updates(torch.ones(2, 3)), _server(torch.zeros(3)))


def _scores_written_out(distances: Tensor) -> list[float]:
    n = len(distances)
    scores = []
    for user in range(n):
        rest = [other for other in range(n) if other != user]
        own = [float(distances[user, other]) for other in rest]
        among = [float(distances[a, b]) for a, b in combinations(rest, 2)]
        outside = max(abs(max(own) - min(among)), abs(min(own) - max(among)))
        scores.append(outside / (max(among) - min(among)))
    return scores


@pytest.mark.parametrize("n", [4, 5, 11])
def test_range_scores_are_their_definition(n: int) -> None:
    points = torch.randn(n, 6, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    points[0] *= 5
    distances = torch.cdist(points, points)
    torch.testing.assert_close(range_scores(distances).tolist(), _scores_written_out(distances))


def test_an_update_inside_the_others_range_scores_at_most_one() -> None:
    points = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distances = torch.cdist(points, points)
    inside = []
    for user in range(12):
        rest = [other for other in range(12) if other != user]
        own, among = distances[user, rest], [float(distances[a, b]) for a, b in combinations(rest, 2)]
        if min(among) <= float(own.min()) and float(own.max()) <= max(among):
            inside.append(user)
    assert len(inside) > 6
    assert bool((range_scores(distances)[inside] <= 1).all())


def test_a_far_update_is_dropped_and_the_near_ones_stay() -> None:
    shared = torch.randn(10, 50, generator=torch.Generator().manual_seed(0))
    shared[3] += 10
    left, verdict = DistanceRange().judge(_updates(shared), _server(torch.zeros(50)))
    assert verdict.kept.tolist() == [user != 3 for user in range(10)]
    assert 3 not in left.users.tolist()


def test_too_few_updates_are_not_judged() -> None:
    shared = torch.tensor([[0.0], [1.0], [100.0]])
    left, _ = DistanceRange().judge(_updates(shared), _server(torch.zeros(1)))
    assert len(left) == 3


def test_identical_updates_do_not_divide_by_nothing() -> None:
    left, verdict = DistanceRange().judge(_updates(torch.ones(5, 3)), _server(torch.zeros(3)))
    assert len(left) == 5
    assert bool(torch.isfinite(verdict.scores).all())


def test_a_threshold_must_be_positive() -> None:
    with pytest.raises(OptionError, match="distance-range-threshold"):
        compose("distance-range", {"distance-range-threshold": 0.0}, 10, 0.1)
