"""What differs between tasks at the server: its data, the first model, its optimizer, and what an evaluation says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import draws
from data import load
from data.digest import shard_digest
from data.interactions import Interactions, require_trainable
from data.shard import load_shard
from draws import Stream
from metrics.counting import Metrics
from metrics.metric import Metric, Selection, selection_of
from models.recommenders.sasrec import Shape, initial_shared
from protocol.requests import GlobalModel
from server.config import ServerConfig
from server.population.catalogue import Catalogue
from settings.run import RunOptions
from strategies.server_model import Optimizer


@dataclass(frozen=True)
class Task:
    """One kind of model to train, on the data of one run.

    ``catalogue``: who may take part; ``first``: the global model before the first round, and ``optimizer`` what steps
    it; ``metrics``: what nodes count in an evaluation, none where the server needs no node for it;
    ``measured`` gives the numbers that the server measures of a model by itself, by part (``valid``, ``test``);
    ``selection``: which number selects the best round; ``shown``: test metrics that progress tells; ``accuracy``
    and ``own_update``: see ``server.run_settings.RunSettings``;
    ``notice``: what whoever reads a result of this data must know.
    """

    catalogue: Catalogue
    first: GlobalModel
    metrics: tuple[Metric, ...]
    selection: Selection
    shown: tuple[str, ...]
    measured: Callable[[GlobalModel], Metrics] | None = None
    optimizer: Optimizer = "adam"
    accuracy: Callable[[Tensor], float] | None = None
    own_update: Callable[[Tensor, int], Tensor] | None = None
    notice: str = ""


def initial_factorization(options: RunOptions, num_items: int) -> GlobalModel:
    """MF's item table; users' vectors never leave their nodes."""
    return GlobalModel(_item_table(options, num_items), torch.empty(0))


def initial_sequences(options: RunOptions, num_items: int) -> GlobalModel:
    """SASRec's item table and encoder."""
    # A sequence of its own, so that the encoder's first weights do not depend on the number of items.
    generator = draws.generator(options.seed, Stream.INITIAL_MODEL, user=1)
    shape = Shape(options.embedding_dim, options.max_length)
    return GlobalModel(_item_table(options, num_items), initial_shared(shape, generator))


def _item_table(options: RunOptions, num_items: int) -> Tensor:
    """Xavier-uniform (num_items, d), as torch's ``xavier_uniform_`` draws it for a table of this shape."""
    bound = math.sqrt(6 / (num_items + options.embedding_dim))
    generator = draws.generator(options.seed, Stream.INITIAL_MODEL)
    table = generator.uniform(-bound, bound, (num_items, options.embedding_dim))
    return torch.from_numpy(table).to(torch.float32)


def _recommendation(initial: Callable[[RunOptions, int], GlobalModel]) -> Callable[[ServerConfig], Task]:
    def task(config: ServerConfig) -> Task:
        options = config.options
        interactions = load(options.dataset, options.data_dir or None, options.columns)
        require_trainable(interactions)
        metrics = config.metrics()
        return Task(
            catalogue=Catalogue(interactions.user_ids, interactions.item_ids, partial(_digest, interactions)),
            first=initial(options, interactions.num_items),
            metrics=metrics,
            selection=selection_of(metrics),
            shown=tuple(name for metric in metrics for name in metric.shown),
        )

    return task


def _digest(interactions: Interactions, users: NDArray[np.int64]) -> str:
    """What a node must say of its data that hosts these users of the run's data set."""
    # The shard's order: the one in which a node has them.
    users = np.sort(users)
    return shard_digest(load_shard(interactions, users), interactions.user_ids[users], interactions.item_ids)


def _classification(config: ServerConfig) -> Task:
    # Imported where it is used: a recommender's server has no images.
    from server.classification import TestBench

    bench = TestBench.of_run(config)
    return Task(
        catalogue=bench.catalogue,
        first=bench.first,
        metrics=config.metrics(),
        selection=Selection("accuracy"),
        shown=("accuracy", "attack_success"),
        measured=lambda model: bench.metrics(model.shared),
        optimizer="sgd",
        accuracy=bench.accuracy,
        own_update=bench.own_update,
        notice=bench.notice,
    )


TASKS: Mapping[str, Callable[[ServerConfig], Task]] = {
    "mf": _recommendation(initial_factorization),
    "sasrec": _recommendation(initial_sequences),
    "lenet": _classification,
    "resnet8": _classification,
    "resnet18": _classification,
}
"""How the task of each model is made for a run."""
