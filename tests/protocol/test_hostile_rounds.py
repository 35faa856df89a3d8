"""Whole rounds in which one node answers as it likes: nothing raises, and the model moves no further than it may."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from hostile_replies import (
    ASKED,
    DIM,
    HUGE,
    INTEGERS,
    LIMITS,
    NUM_ITEMS,
    SHARED,
    content_of,
    contents,
    fuzzed,
    honest_columns,
    others,
    wild,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metrics.metric import CountLimits, Metric, Selection
from metrics.ranked import Ranked
from protocol.admission import LARGEST_VALUE, UnreadableError
from protocol.arrays import to_array
from protocol.messages import (
    MOST_BESIDE_ARRAYS,
    counts_content,
    hosted_content,
    read_counts,
    read_hosted,
    read_train_reply,
    size_of,
)
from protocol.requests import Hosted, LossOptions
from protocol.updates import make_updates, splits_of
from server.population.population import Population
from server.results.recorder import round_line
from server.run_settings import RunSettings
from server.simulation import default_options
from server.state import RunState
from server.strategy import FedRec
from strategies.chain import compose
from strategies.rule import Mean, Rule, ServerView
from strategies.server_model import ServerModel

RATE = 0.01
HONEST = [0, 1, 2]
POPULATION = Population(
    np.array([*HONEST, *ASKED]), np.array([1, 1, 1, 2, 2, 2], np.uint64), np.zeros(6, np.bool_), NUM_ITEMS
)


class Thirds(Metric):
    """How many users are in each of three thirds."""

    name, names = "thirds", ("first",)

    def length(self, num_items: int) -> int:
        return 3

    def count(self, ranked: Ranked) -> Tensor:
        raise NotImplementedError

    def values(self, totals: Sequence[int]) -> dict[str, float | None]:
        return {"first": totals[0] / sum(totals)}


def strategy(rule: Rule | None = None, **changed: Any) -> FedRec:
    generator = torch.Generator().manual_seed(0)
    model = ServerModel.start(
        torch.randn(NUM_ITEMS, DIM, generator=generator), torch.randn(SHARED, generator=generator), RATE, 0.0
    )
    settings = RunSettings(POPULATION, rule or Mean(), 0, 6, LossOptions(), (Thirds(),), max_examples=1000, **changed)
    return FedRec(RunState("run", 0, model), settings)


def asked(fedrec: FedRec, server_round: int) -> list[Message]:
    return list(fedrec.configure_train(server_round, fedrec.state.arrays, ConfigRecord(), None))  # type: ignore[arg-type]


def reply_to(message: Message, content: RecordDict | Error) -> Message:
    return Message(content, reply_to=message)


def honest_reply(message: Message, server_round: int = 1) -> Message:
    columns = honest_columns()
    columns["users"] = np.array(HONEST)
    return reply_to(message, content_of(columns, server_round))


@given(contents(), st.booleans())
@fuzzed(2000)
def test_no_reply_breaks_a_round_or_moves_the_model_further_than_its_admitted_updates(
    content: RecordDict, first: bool
) -> None:
    fedrec = strategy()
    before = fedrec.state.model
    to_honest, to_hostile = asked(fedrec, 1)
    replies = [honest_reply(to_honest), reply_to(to_hostile, content)]
    fedrec.aggregate_train(1, reversed(replies) if first else replies)

    outcome = fedrec.outcome
    assert outcome is not None
    updates = outcome.intake.updates
    assert updates is not None
    admitted = updates.users.tolist()
    assert admitted == sorted(set(admitted))
    assert set(HONEST) <= set(admitted) <= {*HONEST, *ASKED}
    assert 2 in outcome.intake.failed or set(outcome.intake.rejected) == set(ASKED) - set(admitted)

    assert fedrec.state.model.is_finite()
    moved = (fedrec.state.model.items - before.items).abs()
    # Adam's first step is the rate at most, in each coordinate (Kingma and Ba 2015, §2.1) ...
    assert float(moved.max()) <= RATE * (1 + 1e-4)
    # ... and an item to which no admitted update has a row does not move at all.
    untouched = ~torch.isin(torch.arange(NUM_ITEMS), updates.items)
    assert float(moved[untouched].sum()) == 0
    gradient = updates.weighted_mean(NUM_ITEMS).items.abs()
    assert float(gradient.max()) <= float(updates.rows.abs().max()) * (1 + 1e-5) <= LARGEST_VALUE * (1 + 1e-5)

    line = json.dumps(round_line(outcome), allow_nan=False)
    assert len(line) < 20_000
    # Squared and added up over any number of rounds they are finite.
    assert all(abs(value) <= 1e15 for value in outcome.intake.attack.values())
    beside, of_honest = told(content), told(replies[0].content)
    assert outcome.intake.num_bytes >= size_of(content) + beside + size_of(replies[0].content) + of_honest
    assert beside <= MOST_BESIDE_ARRAYS or 2 in outcome.intake.failed
    json.dumps([fedrec.state.tally.summary(Selection("hr@5")), fedrec.state.as_json()], allow_nan=False)


@given(contents())
@fuzzed(1000)
def test_the_reader_of_replies_raises_one_error_alone(content: RecordDict) -> None:
    try:
        admitted = read_train_reply(content, 1, LIMITS)
    except UnreadableError:
        return
    assert set(admitted.updates.users.tolist()) <= set(ASKED)
    assert told(content) <= MOST_BESIDE_ARRAYS


@pytest.mark.parametrize("name", ["attack", "x", "download", "", "reply"])
@pytest.mark.parametrize("record", HUGE)
def test_a_reply_carries_no_more_beside_its_arrays_than_it_needs(name: str, record: Any) -> None:
    """30 MB of text, two million metrics, or labels of arrays: none of it was judged by the size of the arrays."""
    content = content_of(honest_columns())
    read_train_reply(content, 1, LIMITS)
    counts = counts_content({"valid": torch.tensor([1, 1, 1])}, 1)
    read_counts(counts, {"valid": CountLimits(3)}, 1, 5)
    hosted = hosted_content(Hosted(torch.tensor([0]), torch.tensor([False]), 5, 5, "code"))
    read_hosted(hosted)
    for readable in (content, counts, hosted):
        readable[name] = record
    with pytest.raises(UnreadableError, match="beside arrays"):
        read_train_reply(content, 1, LIMITS)
    with pytest.raises(UnreadableError, match="beside arrays"):
        read_counts(counts, {"valid": CountLimits(3)}, 1, 5)
    with pytest.raises(UnreadableError, match="beside arrays"):
        read_hosted(hosted)


def test_arrays_that_nobody_asked_for_count_as_well() -> None:
    counts = counts_content({"valid": torch.tensor([1, 1, 1])}, 1)
    counts["x"] = ArrayRecord({"k": to_array(torch.zeros(200))})
    with pytest.raises(UnreadableError, match="in arrays"):
        read_counts(counts, {"valid": CountLimits(3)}, 1, 5)
    hosted = hosted_content(Hosted(torch.tensor([0]), torch.tensor([False]), 5, 5, "code"))
    hosted["x"] = ArrayRecord({"k": to_array(torch.zeros(200))})
    with pytest.raises(UnreadableError, match="in arrays"):
        read_hosted(hosted)


def told(content: RecordDict) -> int:
    """Bytes of what a reply tells beside its arrays, value by value."""
    size = 0
    for record in content.values():
        for key, value in record.items():
            size += len(key)
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, Array):
                    size += len(one.dtype) + len(one.stype) + 8 * len(one.shape)
                else:
                    size += len(one) if isinstance(one, str | bytes) else 8
    return size


def test_one_users_loss_does_not_hide_what_the_others_tell() -> None:
    fedrec = strategy()
    to_other = asked(fedrec, 1)[1]
    columns = honest_columns()
    columns["losses"] = np.array([0.6, 1e9, 0.8], np.float32)
    columns["num_examples"] = np.array([100, 1000, 100])
    fedrec.aggregate_train(1, [reply_to(to_other, content_of(columns))])
    assert fedrec.outcome is not None
    loss = fedrec.outcome.intake.mean_loss
    # Whatever one of three tells, the mean lies within the bounds on its loss and its weight.
    assert loss is not None
    assert loss <= 10 * 0.8


def test_losses_like_each_other_are_averaged_by_examples() -> None:
    fedrec = strategy()
    columns = honest_columns()
    columns["losses"] = np.array([0.1, 0.5, 0.9], np.float32)
    columns["num_examples"] = np.array([10, 60, 600])
    fedrec.aggregate_train(1, [reply_to(asked(fedrec, 1)[1], content_of(columns))])
    assert fedrec.outcome is not None
    assert fedrec.outcome.intake.mean_loss == pytest.approx((0.1 * 10 + 0.5 * 60 + 0.9 * 600) / 670)


@st.composite
def tables(draw: st.DrawFn) -> RecordDict:
    """Counts, or what a node says of itself, with anything in it."""
    arrays = ArrayRecord()
    for name in draw(st.lists(st.sampled_from(["valid", "test", "users", "malicious", "x"]), max_size=3)):
        values = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, *INTEGERS]), max_size=4))
        kind = np.bool_ if name == "malicious" and draw(st.booleans()) else np.int64
        arrays[name] = to_array(torch.from_numpy(np.array(values).astype(kind)))
    names = st.sampled_from(["num-users", "num-items", "code", "y"])
    sizes = draw(st.dictionaries(names, st.one_of(wild, st.sampled_from([5, 9, "code", "c" * 300]))))
    made = RecordDict({draw(st.sampled_from(["counts", "hosted"])): arrays, "sizes": ConfigRecord(sizes)})
    made["reply"] = draw(st.one_of(st.just(ConfigRecord({"server-round": 1})), others))
    return made


@given(tables())
@fuzzed(600)
def test_counts_and_claims_of_any_kind_are_refused_or_plausible(content: RecordDict) -> None:
    try:
        counts = read_counts(content, {"valid": CountLimits(3), "test": CountLimits(3)}, 1, 5)
        assert all(0 <= int(values.sum()) <= 5 and bool((values >= 0).all()) for values in counts.values())
    except UnreadableError:
        pass
    try:
        hosted = read_hosted(content)
        assert len(set(hosted.users.tolist())) == len(hosted.users) == len(hosted.malicious)
        assert all(0 <= user < hosted.num_users for user in hosted.users.tolist())
    except UnreadableError:
        pass


def test_a_node_cannot_count_more_users_than_it_has() -> None:
    fedrec = strategy()
    fedrec.state = replace(fedrec.state, round=1)
    messages = list(fedrec.configure_evaluate(1, fedrec.state.arrays, ConfigRecord(), None))  # type: ignore[arg-type]
    fair = {"valid": torch.tensor([1, 1, 1]), "test": torch.tensor([0, 0, 3])}
    unfair = {"valid": torch.tensor([4, 0, 0]), "test": torch.tensor([2**62, 2**62, 2**62])}
    replies = [reply_to(messages[0], counts_content(fair, 1)), reply_to(messages[1], counts_content(unfair, 1))]
    # A second answer, an answer of another round and one of a node that was not asked count for nothing.
    replies += [replies[0], reply_to(messages[1], counts_content(fair, 0))]
    fedrec.aggregate_evaluate(1, replies)
    assert fedrec.counted is not None
    assert fedrec.counted.totals == {"valid": [1, 1, 1], "test": [0, 0, 3]}
    assert list(fedrec.counted.failed) == [2]


def test_late_and_second_answers_and_answers_of_strangers_do_not_count() -> None:
    fedrec = strategy()
    to_honest, to_other = asked(fedrec, 1)
    stranger = Message(RecordDict(), 77, "train", group_id="1")
    stale = reply_to(to_other, content_of(honest_columns(), 0))
    replies = [
        honest_reply(to_honest),
        honest_reply(to_honest),
        stale,
        reply_to(stranger, content_of(honest_columns())),
    ]
    fedrec.aggregate_train(1, replies)
    assert fedrec.outcome is not None
    assert len(fedrec.outcome.intake.losses) == len(HONEST)
    assert "round 0 in round 1" in fedrec.outcome.intake.failed[2]
    assert set(fedrec.outcome.intake.failed) == {2}


def test_too_few_updates_leave_the_model_alone() -> None:
    fedrec = strategy(min_updates=4)
    before = fedrec.state.model
    to_honest, to_other = asked(fedrec, 1)
    fedrec.aggregate_train(1, [honest_reply(to_honest), reply_to(to_other, Error(2, "it died"))])
    assert fedrec.state.model is before
    assert fedrec.outcome is not None
    assert fedrec.outcome.aggregate is None
    assert "3 valid updates" in fedrec.outcome.skipped


def test_a_rule_that_makes_no_finite_gradient_leaves_the_model_alone() -> None:
    class Broken(Mean):
        def combine(self, updates, server):  # type: ignore[no-untyped-def]
            gradient = super().combine(updates, server)
            gradient.items[0, 0] = torch.nan
            return gradient

    fedrec = strategy(Broken())
    before = fedrec.state.model
    fedrec.aggregate_train(1, [honest_reply(asked(fedrec, 1)[0])])
    assert fedrec.state.model is before
    assert fedrec.outcome is not None
    assert "not finite" in fedrec.outcome.skipped


def test_a_node_that_offends_again_and_again_is_not_asked_any_more() -> None:
    fedrec = strategy(quarantine_after=3)
    bad = {**honest_columns(), "num_examples": np.full(3, -1)}
    for server_round, offends in enumerate([True, True, False, True, True, True], start=1):
        to_honest, to_other = asked(fedrec, server_round)
        answer = content_of(bad if offends else honest_columns(), server_round)
        fedrec.aggregate_train(server_round, [honest_reply(to_honest, server_round), reply_to(to_other, answer)])
        assert fedrec.outcome is not None
        assert fedrec.outcome.quarantined == ((2,) if server_round == 6 else ())
    assert [message.metadata.dst_node_id for message in asked(fedrec, 7)] == [1]
    evaluated = fedrec.configure_evaluate(7, fedrec.state.arrays, ConfigRecord(), None)  # type: ignore[arg-type]
    assert [message.metadata.dst_node_id for message in evaluated] == [1]


RULES = ["mean", "trimmed-mean", "median", "krum", "multi-krum", "bulyan", "norm-bound", "union", "support-bound",
         "per-item-trimmed-mean", "per-item-median", "per-item-krum", "distance-range", "union+norm-bound"]  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_every_rule_stands_the_most_extreme_updates_that_are_admitted(name: str) -> None:
    rule: Rule = compose(name, {**default_options(), "norm-bound-threshold": 0.1}, 10, 0.1)
    generator = np.random.default_rng(7)
    values = np.array([0, -0.0, LARGEST_VALUE, -LARGEST_VALUE, 1e-45, -1e-40, 1e-20, 1.0, -1.0], np.float32)
    model = strategy().state.model
    for server_round in range(1, 25):
        count = int(generator.integers(1, 8))
        rows = generator.integers(0, NUM_ITEMS + 1, count)
        items = [np.sort(generator.choice(NUM_ITEMS, size, replace=False)) for size in rows]
        updates = make_updates(
            torch.arange(count),
            torch.from_numpy(generator.integers(1, 1001, count)),
            splits_of(torch.from_numpy(rows)),
            torch.from_numpy(np.concatenate(items).astype(np.int64)),
            torch.from_numpy(generator.choice(values, (int(rows.sum()), DIM))),
            torch.from_numpy(generator.choice(values, (count, SHARED))),
        )
        view = ServerView(server_round, model, 10, np.random.default_rng(server_round))
        model = model.step(rule.aggregate(updates, view).gradient)
        assert model.is_finite()
        assert bool(torch.isfinite(model.items_moments.second).all())
