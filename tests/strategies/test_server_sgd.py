"""FedAvg's server step: differences move the model by the server rate, and nothing is remembered."""

import torch

from protocol.updates import Gradient
from strategies.server_model import ServerModel


def _model(rate: float, decay: float = 0.0) -> ServerModel:
    generator = torch.Generator().manual_seed(0)
    items, shared = torch.randn(3, 2, generator=generator), torch.randn(5, generator=generator)
    return ServerModel.start(items, shared, rate, decay, optimizer="sgd")


def test_rate_one_lands_on_the_mean_of_the_local_models() -> None:
    model = _model(1.0)
    local = torch.randn(4, 5)
    stepped = model.step(Gradient(torch.zeros(3, 2), (local - model.shared).mean(0)))
    torch.testing.assert_close(stepped.shared, local.mean(0))
    assert torch.equal(stepped.items, model.items)
    assert stepped.round == 1
    assert stepped.optimizer == "sgd"


def test_two_steps_are_the_sum_of_both_since_nothing_is_remembered() -> None:
    model = _model(0.5)
    first, second = torch.randn(5), torch.randn(5)
    nothing = torch.zeros(3, 2)
    stepped = model.step(Gradient(nothing, first)).step(Gradient(nothing, second))
    torch.testing.assert_close(stepped.shared, model.shared + 0.5 * first + 0.5 * second)
    assert stepped.shared_moments.first.numel() == stepped.items_moments.second.numel() == 0


def test_weight_decay_pulls_towards_zero() -> None:
    model = _model(1.0, decay=0.1)
    stepped = model.step(Gradient(torch.zeros(3, 2), torch.zeros(5)))
    torch.testing.assert_close(stepped.shared, 0.9 * model.shared)
    torch.testing.assert_close(stepped.items, 0.9 * model.items)
    torch.testing.assert_close(model.shared + model.common.shared, stepped.shared)


def test_a_preview_is_what_the_step_does() -> None:
    model = _model(0.7, decay=0.1)
    gradient = torch.randn(3, 2)
    stepped = model.step(Gradient(gradient, torch.zeros(5)))
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(model.preview_rows(rows, gradient[rows]), stepped.items[rows])
