"""The attacks as a mod around any ClientApp that returns weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from attacks.flower import ON_UPDATES, first_nodes, poisoning
from settings.options import OptionError

START = {"weight": np.zeros((4, 3), np.float32), "count": np.array(7)}


def request(server_round: int = 1, kind: str = "train") -> Message:
    arrays = ArrayRecord({name: Array(values) for name, values in START.items()})
    message = Message(RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": server_round})}), 5, kind)
    message.metadata.__dict__["_message_id"] = "1"
    return message


def context(partition: int = 0) -> Context:
    return Context(1, 5, {"partition-id": partition, "num-partitions": 4}, RecordDict(), {})


class App:
    """An app whose every training moves the weights elsewhere."""

    def __init__(self) -> None:
        self.updates: list[np.ndarray] = []

    def __call__(self, message: Message, context: Context) -> Message:
        sent = message.content.array_records["arrays"]["weight"].numpy()
        self.updates.append(np.random.default_rng(len(self.updates)).normal(size=sent.shape).astype(np.float32))
        arrays = ArrayRecord({"weight": Array(sent + self.updates[-1]), "count": Array(np.array(8))})
        metrics = MetricRecord({"num-examples": 30, "loss": 0.25})
        return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def answered(mod: Any, app: App, message: Message | None = None, partition: int = 0) -> tuple[np.ndarray, Message]:
    reply = mod(message or request(), context(partition), app)
    return reply.content.array_records["arrays"]["weight"].numpy(), reply


def test_sign_flip_turns_the_difference_and_leaves_the_rest() -> None:
    app = App()
    weights, reply = answered(poisoning("sign-flip", options={"sign-flip-factor": 3.0}), app)
    np.testing.assert_allclose(weights, -3 * app.updates[0], rtol=1e-6)
    assert reply.content.array_records["arrays"]["count"].numpy() == 8
    assert dict(reply.content.metric_records["metrics"]) == {"num-examples": 30, "loss": 0.25}


def test_lie_shifts_the_mean_of_several_trainings_by_their_deviation() -> None:
    app = App()
    weights, _ = answered(poisoning("lie", options={"lie-z": 1.5}, samples=5), app)
    assert len(app.updates) == 5
    updates = np.stack(app.updates)
    np.testing.assert_allclose(weights, updates.mean(0) - 1.5 * updates.std(0), atol=1e-6)


@pytest.mark.parametrize("attack", ON_UPDATES)
def test_every_attack_on_updates_answers_with_other_weights_of_the_same_form(attack: str) -> None:
    app = App()
    weights, _ = answered(poisoning(attack, samples=6, options={"lie-z": 1.0}), app)
    assert weights.shape == (4, 3)
    assert weights.dtype == np.float32
    assert np.isfinite(weights).all()
    # The last training is the one whose reply goes out.
    assert not np.array_equal(weights, app.updates[-1])


@pytest.mark.parametrize(("server_round", "attacked"), [(1, False), (2, True), (3, True), (4, False)])
def test_it_attacks_in_its_rounds(server_round: int, attacked: bool) -> None:
    app = App()
    weights, _ = answered(poisoning("sign-flip", start=2, stop=3), app, request(server_round))
    assert np.array_equal(weights, -app.updates[0]) == attacked
    assert np.array_equal(weights, app.updates[0]) != attacked


def test_honest_nodes_and_other_messages_are_left_alone() -> None:
    app, mod = App(), poisoning("sign-flip", malicious=first_nodes(0.3))
    assert np.array_equal(answered(mod, app, partition=2)[0], app.updates[0])
    assert np.array_equal(answered(mod, app, partition=1)[0], -app.updates[1])
    assert np.array_equal(answered(mod, app, request(kind="evaluate"))[0], app.updates[2])


def test_it_claims_what_it_is_told() -> None:
    _, reply = answered(poisoning("ipm", examples="cap", max_examples=777), App())
    assert reply.content.metric_records["metrics"]["num-examples"] == 777


@pytest.mark.parametrize("attack", ["cluster", "backdoor", "lei"])
def test_an_attack_that_needs_more_than_updates_is_refused(attack: str) -> None:
    with pytest.raises(OptionError, match="sign-flip"):
        poisoning(attack)
