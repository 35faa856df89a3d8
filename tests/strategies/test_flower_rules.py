"""On dense updates the rules that Flower has too give what Flower's own strategies give."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan as FlowerBulyan
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg
from flwr.serverapp.strategy import Krum as FlowerKrum
from flwr.serverapp.strategy import MultiKrum as FlowerMultiKrum
from random_updates import Floats, Shape, from_dense, model_of, view

from strategies.rule import Mean, Rule
from strategies.rules.bulyan import Bulyan, BulyanOptions
from strategies.rules.krum import Krum, KrumOptions, MultiKrum
from strategies.rules.median import Median
from strategies.rules.trimmed_mean import TrimmedMean, TrimmedMeanOptions

NUM_ITEMS, DIM = 9, 4

PAIRS: dict[str, tuple[Rule, FedAvg]] = {
    "mean": (Mean(), FedAvg()),
    "trimmed-mean-0.2": (TrimmedMean(TrimmedMeanOptions(beta=0.2)), FedTrimmedAvg(beta=0.2)),
    "trimmed-mean-0.37": (TrimmedMean(TrimmedMeanOptions(beta=0.37)), FedTrimmedAvg(beta=0.37)),
    "median": (Median(), FedMedian()),
    "krum": (Krum(options=KrumOptions(num_malicious_nodes=2)), FlowerKrum(num_malicious_nodes=2)),
    "multi-krum": (
        MultiKrum(options=KrumOptions(num_malicious_nodes=2, num_nodes_to_select=5)),
        FlowerMultiKrum(num_malicious_nodes=2, num_nodes_to_select=5),
    ),
    "bulyan": (Bulyan(BulyanOptions(num_malicious_nodes=2)), FlowerBulyan(num_malicious_nodes=2)),
}


def replies(matrix: Floats, num_examples: np.ndarray) -> list[Message]:
    made = []
    for row, examples in zip(matrix, num_examples, strict=True):
        arrays = ArrayRecord({"items": Array(row.reshape(NUM_ITEMS, DIM).copy())})
        metrics = MetricRecord({"num-examples": int(examples), "loss": 0.0})
        request = Message(content=RecordDict(), dst_node_id=1, message_type="train")
        request.metadata.__dict__["_message_id"] = "1"
        made.append(Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=request))
    return made


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("n", [11, 14])
def test_equal_to_flowers_own_strategy(name: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Flower collects garbage once a reply, which takes longer than all the rest.
    monkeypatch.setattr("gc.collect", lambda: 0)
    ours, theirs = PAIRS[name]
    generator = np.random.default_rng(n)
    matrix = generator.normal(size=(n, NUM_ITEMS * DIM))
    num_examples = generator.integers(1, 100, n)
    expected, _ = theirs.aggregate_train(1, replies(matrix, num_examples))
    assert expected is not None
    model = model_of(Shape(0, n, NUM_ITEMS, DIM, 0, 1.0))
    result = ours.aggregate(from_dense(matrix, NUM_ITEMS, num_examples), view(model)).gradient
    np.testing.assert_allclose(result.items.numpy(), expected["items"].numpy(), rtol=1e-6, atol=1e-12)
