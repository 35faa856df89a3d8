"""What differs between tasks at the server: the first model, the counts of an evaluation, and their metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data import draws
from data.draws import Stream
from models.sasrec import Shape, initial_shared
from protocol.requests import MOST_RANKS, GlobalModel
from server.config import ServerOptions
from server.metrics import ranking_metrics

Metrics = Mapping[str, dict[str, float]]


@dataclass(frozen=True)
class Task:
    """One kind of model to train.

    ``initial`` makes the global model before the first round from the options and the number of items;
    ``counts``: the lengths of what nodes count in an evaluation; ``metrics`` turns their totals into
    metrics by part (``valid``, ``test``); the best round has the highest ``selection`` on ``valid``.
    """

    initial: Callable[[ServerOptions, int], GlobalModel]
    counts: Mapping[str, int]
    metrics: Callable[[Mapping[str, Any]], Metrics]
    selection: str


def _item_table(options: ServerOptions, num_items: int) -> Tensor:
    """Xavier-uniform (num_items, d), as torch's ``xavier_uniform_`` draws it for a table of this shape."""
    bound = math.sqrt(6 / (num_items + options.embedding_dim))
    generator = draws.generator(options.seed, Stream.INITIAL_MODEL)
    table = generator.uniform(-bound, bound, (num_items, options.embedding_dim))
    return torch.from_numpy(table).to(torch.float32)


def _factorization(options: ServerOptions, num_items: int) -> GlobalModel:
    return GlobalModel(_item_table(options, num_items), torch.empty(0))


def _sequences(options: ServerOptions, num_items: int) -> GlobalModel:
    # A sequence of its own, so that the encoder's first weights do not depend on the number of items.
    generator = draws.generator(options.seed, Stream.INITIAL_MODEL, user=1)
    shape = Shape(options.embedding_dim, options.max_length)
    return GlobalModel(_item_table(options, num_items), initial_shared(shape, generator))


def _ranking(counts: Mapping[str, Any]) -> Metrics:
    return {part: ranking_metrics(counts[part]) for part in ("valid", "test")}


RANK_COUNTS = {"valid": MOST_RANKS + 1, "test": MOST_RANKS + 1}

TASKS = {
    "mf": Task(_factorization, RANK_COUNTS, _ranking, "hr@5"),
    "sasrec": Task(_sequences, RANK_COUNTS, _ranking, "hr@5"),
}
"""The task of each model."""
