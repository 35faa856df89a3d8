"""Robust around Flower's strategies: who passes, what the rule makes of it, and what the wrapped strategy gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)
from scipy.spatial.distance import pdist

from protocol.updates import Updates
from settings.options import OptionError
from strategies.flower import Robust
from strategies.rule import ServerView
from strategies.rules.popularity_separation import separation
from strategies.rules.union import Union

ITEMS, DIM, HIDDEN = 6, 3, 5
TABLE = "item_embedding.weight"
Arrays = dict[str, np.ndarray]


def start(seed: int = 0) -> Arrays:
    generator = np.random.default_rng(seed)
    return {
        TABLE: generator.normal(size=(ITEMS, DIM)).astype(np.float32),
        "layer.weight": generator.normal(size=(HIDDEN, DIM)).astype(np.float32),
        "norm.num_batches_tracked": np.array(3),
        "layer.scale": np.array(generator.normal(), np.float32),
    }


def record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(values)) for name, values in arrays.items()})


def trained(arrays: Arrays, seed: int, size: float = 0.1) -> Arrays:
    """What a client returns: all real numbers moved a little, one counter more, two items untouched."""
    generator = np.random.default_rng(seed)
    moved = {}
    for name, values in arrays.items():
        moved[name] = np.asarray(values + size * generator.normal(size=values.shape)).astype(values.dtype)
    moved[TABLE][[0, 4]] = arrays[TABLE][[0, 4]]
    if "norm.num_batches_tracked" in arrays:
        moved["norm.num_batches_tracked"] = np.array(4)
    return moved


def reply(node: int, content: RecordDict | Error) -> Message:
    request = Message(content=RecordDict(), dst_node_id=node, message_type="train")
    request.metadata.__dict__["_message_id"] = str(node)
    if isinstance(content, Error):
        return Message(content, reply_to=request)
    return Message(content=content, reply_to=request)


def answer(node: int, arrays: Arrays | ArrayRecord, examples: float = 10, **metrics: Any) -> Message:
    told = MetricRecord({"num-examples": examples, "train_loss": 0.5, **metrics})
    sent = arrays if isinstance(arrays, ArrayRecord) else record(arrays)
    return reply(node, RecordDict({"arrays": sent, "metrics": told}))


class NoGrid:
    """A grid with twelve nodes."""

    def get_node_ids(self) -> list[int]:
        return list(range(1, 13))


def robust(rule: str, strategy: Strategy | None = None, **options: Any) -> tuple[Robust, Arrays]:
    """A strategy that has sent its first arrays."""
    made, arrays = Robust(strategy or FedAvg(), rule, **options), start()
    list(made.configure_train(1, record(arrays), ConfigRecord(), NoGrid()))  # type: ignore[arg-type]
    return made, arrays


def numbers(found: ArrayRecord | None) -> Arrays:
    assert found is not None
    return {name: array.numpy() for name, array in found.items()}


def honest(arrays: Arrays, count: int = 8) -> list[Message]:
    return [answer(node, trained(arrays, node)) for node in range(1, count + 1)]


def spoilt(arrays: Arrays, name: str, values: np.ndarray) -> Arrays:
    return {**trained(arrays, 99), name: values}


def test_without_a_rule_and_without_attack_it_is_the_wrapped_strategy_to_the_bit() -> None:
    made, arrays = robust("mean", weight_bound=0.0)
    examples = np.random.default_rng(0).integers(1, 100, 8)
    told = [answer(node, trained(arrays, node), int(examples[node - 1])) for node in range(1, 9)]
    plain, _ = FedAvg().aggregate_train(
        1, [answer(node, trained(arrays, node), int(examples[node - 1])) for node in range(1, 9)]
    )
    found, metrics = made.aggregate_train(1, told)
    for name, values in numbers(plain).items():
        if name != "norm.num_batches_tracked":
            np.testing.assert_array_equal(numbers(found)[name], values)
    assert metrics is not None
    assert metrics["robust-rejected"] == 0
    assert metrics["train_loss"] == pytest.approx(0.5)


def hostile(arrays: Arrays) -> dict[str, Message]:
    """One reply each that ends or poisons a stock run."""
    good = trained(arrays, 50)
    layer = "layer.weight"
    nan = np.full((HIDDEN, DIM), np.nan, np.float32)
    header = record(good)
    promise = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }".ljust(117) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + len(promise).to_bytes(2, "little") + promise + bytes(60)
    header[layer] = Array("float32", (HIDDEN, DIM), "numpy.ndarray", npy)
    junk = record(good)
    junk[layer] = Array("float32", (HIDDEN, DIM), "numpy.ndarray", bytes(range(188)))
    return {
        "NaN": answer(900, spoilt(arrays, layer, nan)),
        "infinity": answer(900, spoilt(arrays, layer, np.full((HIDDEN, DIM), np.inf, np.float32))),
        "huge": answer(900, spoilt(arrays, layer, np.full((HIDDEN, DIM), 1e30, np.float32))),
        "another shape": answer(900, spoilt(arrays, layer, np.zeros((HIDDEN, DIM + 1), np.float32))),
        "another kind": answer(900, spoilt(arrays, layer, np.zeros((HIDDEN, DIM), np.float64))),
        "an array less": answer(900, {name: values for name, values in good.items() if name != layer}),
        "a header that promises gigabytes": answer(900, header),
        "junk": answer(900, junk),
        "1e12 examples": answer(900, good, 1e12),
        "minus one example": answer(900, good, -1),
        "NaN examples": answer(900, good, float("nan")),
        "a loss that is NaN": answer(900, good, train_loss=float("nan")),
        "other metrics": answer(900, good, accuracy=1.0),
        "no metrics": reply(900, RecordDict({"arrays": record(good)})),
        "nothing": reply(900, RecordDict()),
    }


@pytest.mark.parametrize("name", hostile(start()))
def test_one_hostile_reply_neither_ends_nor_moves_the_round(name: str) -> None:
    made, arrays = robust("mean")
    expected, _ = made.aggregate_train(1, honest(arrays))
    found, metrics = made.aggregate_train(1, [hostile(arrays)[name], *honest(arrays)])
    assert list(made.rejected) == [900]
    for array, values in numbers(expected).items():
        np.testing.assert_array_equal(numbers(found)[array], values)
    assert metrics is not None
    assert metrics["robust-rejected"] == 1


def test_errors_go_on_to_the_wrapped_strategy_and_a_round_of_them_leaves_the_model() -> None:
    made, arrays = robust("multi-krum")
    broken = reply(3, Error(code=2, reason="it broke"))
    found, _ = made.aggregate_train(1, [broken, *honest(arrays)])
    assert found is not None
    assert made.aggregate_train(2, [reply(3, Error(code=2, reason="again"))])[0] is None


def test_what_a_rule_drops_does_not_reach_the_wrapped_strategy() -> None:
    made, arrays = robust("multi-krum", malicious_fraction=0.2)
    poisoned = {name: values - 5 if values.dtype == np.float32 else values for name, values in arrays.items()}
    attackers = [answer(node, poisoned) for node in (20, 21)]
    found, metrics = made.aggregate_train(1, [*attackers, *honest(arrays)])
    expected, _ = FedAvg().aggregate_train(1, honest(arrays))
    np.testing.assert_array_equal(numbers(found)["layer.weight"], numbers(expected)["layer.weight"])
    assert metrics is not None
    assert metrics["robust-multi-krum-dropped"] == 2


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "geometric-median", "nnm+trimmed-mean", "bucketing+median"])
def test_a_rule_that_combines_sets_every_reply_to_its_result(rule: str) -> None:
    made, arrays = robust(rule)
    found, _ = made.aggregate_train(1, honest(arrays, 9))
    sent = np.stack([trained(arrays, node)["layer.weight"] for node in range(1, 10)])
    if rule == "median":
        np.testing.assert_allclose(numbers(found)["layer.weight"], np.median(sent, axis=0), atol=1e-6)
    assert (numbers(found)["layer.weight"] <= sent.max(0) + 1e-6).all()
    assert (numbers(found)["layer.weight"] >= sent.min(0) - 1e-6).all()


def test_flames_noise_reaches_the_model() -> None:
    made, arrays = robust("flame", options={"flame-noise": 0.5})
    quiet, _ = robust("flame", options={"flame-noise": 0.0})
    noisy = numbers(made.aggregate_train(1, honest(arrays))[0])
    plain = numbers(quiet.aggregate_train(1, honest(arrays))[0])
    assert np.abs(noisy["layer.weight"] - plain["layer.weight"]).min() > 0


def test_nobody_weighs_more_than_twice_the_median() -> None:
    made, arrays = robust("mean")
    told = [answer(node, trained(arrays, node), 1e6 if node == 1 else 10) for node in range(1, 9)]
    weights = np.array([20, *[10] * 7])
    sent = np.stack([trained(arrays, node)["layer.weight"] for node in range(1, 9)])
    found = numbers(made.aggregate_train(1, told)[0])["layer.weight"]
    np.testing.assert_allclose(found, np.tensordot(weights / weights.sum(), sent, 1), atol=1e-6)


def test_counters_are_the_median_of_what_was_sent() -> None:
    made, arrays = robust("mean")
    lie = spoilt(arrays, "norm.num_batches_tracked", np.array(1 << 60))
    found, _ = made.aggregate_train(1, [answer(20, lie), *honest(arrays)])
    assert numbers(found)["norm.num_batches_tracked"] == 4


WRAPPED = {
    "FedAvg": FedAvg,
    "FedAvgM": lambda: FedAvgM(server_momentum=0.9),
    "FedAdam": FedAdam,
    "FedAdagrad": FedAdagrad,
    "FedYogi": FedYogi,
    "FedProx": lambda: FedProx(proximal_mu=0.1),
    "FedMedian": FedMedian,
    "FedTrimmedAvg": FedTrimmedAvg,
    "Krum": lambda: Krum(num_malicious_nodes=1),
    "MultiKrum": lambda: MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3),
    "Bulyan": lambda: Bulyan(num_malicious_nodes=1),
    "QFedAvg": lambda: QFedAvg(client_learning_rate=0.1),
    "Robust": lambda: Robust(FedAvg(), "norm-bound", options={"norm-bound-threshold": 100.0}),
}


@pytest.mark.parametrize("rule", ["multi-krum", "nnm+median"])
@pytest.mark.parametrize("name", WRAPPED)
def test_around_every_strategy_of_flowers_that_averages_weights(
    name: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Flower collects garbage once a reply, which takes longer than all the rest.
    monkeypatch.setattr("gc.collect", lambda: 0)
    made, arrays = Robust(WRAPPED[name](), rule), start()
    if name == "QFedAvg":
        # As it stands in Flower it cannot multiply whole numbers.
        del arrays["norm.num_batches_tracked"]
    poisoned = {key: values - 50 if values.dtype == np.float32 else values for key, values in arrays.items()}
    for now in (1, 2):
        list(made.configure_train(now, record(arrays), ConfigRecord(), NoGrid()))  # type: ignore[arg-type]
        found, _ = made.aggregate_train(now, [answer(20, poisoned), *honest(arrays)])
        moved = np.abs(numbers(found)["layer.weight"] - arrays["layer.weight"]).max()
        assert moved < 2


def test_evaluations_are_of_numbers_that_can_be_believed() -> None:
    made, _ = robust("mean")

    def told(node: int, **metrics: float) -> Message:
        return reply(node, RecordDict({"metrics": MetricRecord(metrics)}))

    good = [told(node, **{"num-examples": 10, "accuracy": 0.5}) for node in range(1, 5)]
    lies = [
        told(8, **{"num-examples": 1e12, "accuracy": 0.0}),
        told(9, **{"num-examples": 10, "accuracy": float("nan")}),
    ]
    found = made.aggregate_evaluate(1, [*lies, *good])
    assert found is not None
    assert found["accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", WRAPPED)
def test_where_a_rule_drops_everybody_the_model_stays(name: str) -> None:
    made, arrays = Robust(WRAPPED[name](), "norm-bound+random_updates:DropsEverybody"), start()
    list(made.configure_train(1, record(arrays), ConfigRecord(), NoGrid()))  # type: ignore[arg-type]
    found, metrics = made.aggregate_train(1, honest(arrays))
    assert found is None
    assert metrics is not None
    assert metrics["robust-drops-everybody-dropped"] == 8


def test_a_rule_remembers_the_rounds_before_and_goes_against_its_gradient() -> None:
    """Item 4 is popular by the first round alone; a client's difference is minus a gradient."""
    options = {"popularity-separation-weight": 0.5, "popularity-separation-popular": 1 / ITEMS}
    made, arrays = robust("popularity-separation", item_table=TABLE, options=options, weight_bound=0.0)
    found: Arrays = {}
    for touched, count in ((4, 8), (2, 5)):
        moved = {**arrays, TABLE: arrays[TABLE].copy()}
        moved[TABLE][touched] += 0.5
        found = numbers(made.aggregate_train(1, [answer(node, moved) for node in range(1, count + 1)])[0])
    expected = arrays[TABLE].copy()
    expected[2] += 0.5
    expected -= 0.5 * separation(torch.from_numpy(arrays[TABLE]), torch.tensor([4]))[1].numpy()
    np.testing.assert_allclose(found[TABLE], expected, atol=1e-6)


@pytest.mark.parametrize("step", ["adam", "sgd"])
def test_the_item_table_makes_rows(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Updates] = []
    judge = Union.judge

    def watched(self: Union, updates: Updates, server: ServerView) -> Any:
        seen.append(updates)
        return judge(self, updates, server)

    monkeypatch.setattr(Union, "judge", watched)
    made, arrays = robust("union", item_table=TABLE, options={"union-step": step})
    made.aggregate_train(1, honest(arrays))
    (updates,) = seen
    # UNION measures the tables that the clients returned.
    uniformity = [pdist(trained(arrays, node)[TABLE]).mean() for node in range(1, 9)]
    np.testing.assert_allclose(made.verdicts[0].notes["min_uniformity"], min(uniformity), rtol=1e-6)
    assert updates.row_counts.tolist() == [ITEMS - 2] * 8
    assert updates.items[:4].tolist() == [1, 2, 3, 5]
    assert updates.shared.shape == (8, HIDDEN * DIM + 1)
    change = trained(arrays, 1)[TABLE] - arrays[TABLE]
    np.testing.assert_allclose(updates.rows[:4].numpy(), change[[1, 2, 3, 5]], atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("union", "item_table"),
        ("fltrust", "validation set"),
        ("krmu", "there is no rule"),
        ("median+krum", "Put it last"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_before_the_first_round(rule: str, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        Robust(FedAvg(), rule)


def test_an_item_table_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="item_embedding"):
        robust("union", item_table="items")
