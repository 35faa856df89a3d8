"""A round is a function of a run's state, and that state can be written down, read back, and driven by Flower."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from client import answers
from protocol.requests import GlobalModel, PopulationQuery
from protocol.updates import Gradient, Updates
from server.config import server_config
from server.grids.local_grid import LocalGrid
from server.population.nodes import discover
from server.round import train_round
from server.run_settings import RunSettings
from server.simulation import default_options
from server.state import RunState
from server.strategy import FedRec
from server.tasks import make_task
from strategies.rule import Mean, Rule, ServerView
from strategies.server_model import ServerModel

OPTIONS: dict[str, Any] = {
    **default_options(),
    "num-nodes": 2,
    "clients-per-round": 20,
    "embedding-dim": 8,
    "attack": "cluster",
    "malicious-fraction": 0.1,
    "defense": "union+norm-bound",
}

run_ids = count(50_000)


class Fading(Mean):
    """A mean that fades from round to round: a rule with a state."""

    def __init__(self) -> None:
        super().__init__()
        self._rounds = 0

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        self._rounds += 1
        gradient = super().combine(updates, server)
        return replace(gradient, items=gradient.items / self._rounds)

    def state(self) -> dict[str, Any]:
        return {"rounds": self._rounds}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rounds = state["rounds"]


def federation(rule: Rule, kept: str = "memory") -> tuple[LocalGrid, RunState, RunSettings]:
    """Nodes that keep their state in memory or in a folder, and a run that nobody has trained yet."""
    grid = LocalGrid(answers.answer, OPTIONS, 2, kept, next(run_ids))
    task = make_task(server_config(OPTIONS))
    model = ServerModel.start(task.first.items, task.first.shared, 0.002, 1e-5)
    loss = server_config(OPTIONS).loss
    settings = RunSettings(
        discover(grid, 0, 60.0, query=PopulationQuery("run")), rule, 0, 20, loss, task.metrics, num_rounds=4
    )
    return grid, RunState("run", 0, model, rule.state()), settings


def union() -> Rule:
    return server_config(OPTIONS).rule()


def trained(fedrec: FedRec) -> Tensor:
    return fedrec.state.model.items


def test_flowers_own_loop_trains_the_same_model() -> None:
    """Whatever drives a strategy by Flower's interface, or wraps it, gets what ``start`` gives."""
    grid, state, settings = federation(union())
    ours = FedRec(state, settings)
    result = ours.start(grid)
    grid, state, settings = federation(union())
    flowers = FedRec(state, settings)
    found = Strategy.start(flowers, grid, state.arrays, num_rounds=4)
    assert not torch.equal(trained(ours), state.model.items)
    assert torch.equal(trained(ours), trained(flowers))
    assert ours.state.round == flowers.state.round == 4
    assert dict(result.evaluate_metrics_clientapp[4]) == dict(found.evaluate_metrics_clientapp[4])
    assert ours.state.tally.updates == flowers.state.tally.updates == 4 * 20


def test_what_start_is_given_goes_before_the_settings() -> None:
    grid, state, settings = federation(union())
    table = torch.zeros_like(state.model.items)
    other = replace(state, model=replace(state.model, items=table)).arrays
    seen: list[int] = []

    def here(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        seen.append(server_round)
        return MetricRecord({"rounds": server_round})

    fedrec = FedRec(state, settings)
    result = fedrec.start(grid, other, num_rounds=1, evaluate_fn=here)
    assert seen == [1]
    assert result.evaluate_metrics_serverapp[1]["rounds"] == 1
    # Adam's first step is the rate at most, and it began at zero.
    assert float(trained(fedrec).abs().max()) <= 0.002 * 1.001
    assert fedrec.state.round == 1


def test_a_round_depends_on_the_state_alone(tmp_path: Path) -> None:
    """Also where the rule keeps something from round to round: it goes on from the state's, whatever it saw since."""
    rule = Fading()
    grid, first, settings = federation(rule, str(tmp_path))
    second, _ = train_round(first, grid, settings)
    third, outcome = train_round(second, grid, settings)
    assert [dict(state.rule) for state in (first, second, third)] == [{"rounds": 0}, {"rounds": 1}, {"rounds": 2}]
    again, repeated = train_round(second, grid, settings)
    assert torch.equal(third.model.items, again.model.items)
    assert dict(again.rule) == {"rounds": 2}
    assert outcome.aggregate is not None
    assert repeated.aggregate is not None
    assert torch.equal(outcome.aggregate.gradient.items, repeated.aggregate.gradient.items)


def test_a_state_written_down_and_read_back_is_the_same_and_goes_on_the_same(tmp_path: Path) -> None:
    grid, state, settings = federation(Fading(), str(tmp_path))
    fedrec = FedRec(replace(state, offences={2**63 + 5: 3}, quarantined={2**63 + 9: 1}), settings)
    fedrec.start(grid, num_rounds=2)
    # The nodes may go back to before the round that is trained twice below.
    found = replace(fedrec.state, keep_from=1)
    text = json.dumps(found.as_json(), allow_nan=False)
    read = RunState.of_json(json.loads(text), found.model)
    assert json.dumps(read.as_json()) == text
    assert read == found
    on, _ = train_round(found, grid, settings)
    also, _ = train_round(read, grid, replace(settings, rule=Fading()))
    assert torch.equal(on.model.items, also.model.items)


def test_the_models_arrays_are_those_of_the_state() -> None:
    _, state, _ = federation(union())
    assert isinstance(state.global_model, GlobalModel)
    assert state.arrays is state.arrays
    stepped = replace(state, model=replace(state.model, items=state.model.items + 1))
    assert stepped.arrays is not state.arrays
    assert (stepped.arrays["items"].numpy() == (state.model.items + 1).numpy()).all()
