"""What differs between tasks at the server: its data, the first model, its optimizer, and what an evaluation says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data import load
from data.digest import shard_digest
from data.interactions import Interactions, require_trainable
from data.shard import load_shard
from data.targets import target_items
from metrics.counting import Metrics, require_usable
from metrics.metric import Metric, Selection, selection_of
from metrics.targeted import TargetRanking
from models import MODELS
from models.recommenders.recommender import make_recommender
from protocol.requests import GlobalModel
from server.config import ServerConfig
from server.population.catalogue import Catalogue
from strategies.server_model import Optimizer


@dataclass(frozen=True)
class Task:
    """One kind of model to train, on the data of one run.

    ``catalogue``: who may take part; ``first``: the global model before the first round, and ``optimizer`` what steps
    it; ``metrics``: what nodes count in an evaluation, none where the server needs no node for it;
    ``measured`` gives the numbers that the server measures of a model by itself, by part (``valid``, ``test``);
    ``selection``: which number selects the best round; ``shown``: test metrics that progress tells; ``accuracy``
    and ``own_update``: see ``server.run_settings.RunSettings``;
    ``notice``: what whoever reads a result of this data must know; ``targets``: indexes of the items
    whose promotion is measured.
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
    targets: tuple[int, ...] = ()


def _recommendation(config: ServerConfig) -> Task:
    options = config.options
    interactions = load(options.dataset, options.data_dir or None, options.columns)
    require_trainable(interactions)
    recommender, metrics = make_recommender(options), config.metrics()
    targets = target_items(options.target_items, interactions, options.seed)
    if targets:
        metrics = (*metrics, TargetRanking(targets))
        require_usable(metrics, f"attack = {options.attack!r}")
    return Task(
        catalogue=Catalogue(interactions.user_ids, interactions.item_ids, partial(_digest, interactions)),
        first=GlobalModel(*recommender.initial(interactions.num_items, options.embedding_dim, options.seed)),
        metrics=metrics,
        selection=selection_of(metrics),
        shown=tuple(name for metric in metrics for name in metric.shown),
        targets=targets,
    )


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
    "recommendation": _recommendation,
    "classification": _classification,
}
"""How each kind of task is made for a run."""


def make_task(config: ServerConfig) -> Task:
    """The task of a run's model on the run's data."""
    return TASKS[MODELS[config.options.model].task](config)
