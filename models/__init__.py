"""Recommenders and classifiers with their losses, in plain torch."""

from __future__ import annotations

from robust_fedrec import require_own

require_own(__name__)

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ITEM_ROWS, VALIDATION_SET = "item rows", "a validation set at the server"
"""What a rule may need of the run, beside updates."""


@dataclass(frozen=True)
class ModelCard:
    """What a run needs to know of a model before it loads it, and where it is.

    ``place``: ``module:name`` of its ``Recommender``, or of what makes an image classifier's network for
    (channels, size, num_classes); imported when it is needed, so that a process loads no other.
    ``learning_rate``: the paper's (appendix), or FedAvg's server rate; ``defaults``: other options whose usual value
    depends on the model, for runs that leave them at 0. ``task``: what it is trained for; ``offers``: what of ITEM_ROWS
    and VALIDATION_SET its rules may count on; ``weight_decay``: whether its loss has the L2 term of Eq. 1;
    ``for_gpu``: whether a node that finds a GPU trains it there unasked.
    """

    place: str
    learning_rate: float
    defaults: Mapping[str, float] = field(default_factory=dict)
    task: Literal["recommendation", "classification"] = "recommendation"
    offers: frozenset[str] = frozenset({ITEM_ROWS})
    weight_decay: bool = True
    for_gpu: bool = False


def _classifier(place: str, norm_bound: float) -> ModelCard:
    return ModelCard(
        place,
        learning_rate=1.0,
        defaults={"norm-bound-threshold": norm_bound},
        task="classification",
        offers=frozenset({VALIDATION_SET}),
        weight_decay=False,
        for_gpu=True,
    )


MODELS = {
    "mf": ModelCard(
        "models.recommenders.mf_recommender:MatrixFactorization",
        learning_rate=2e-3,
        defaults={"norm-bound-threshold": 0.1},
    ),
    "sasrec": ModelCard(
        "models.recommenders.sasrec_recommender:SasRec",
        learning_rate=1e-3,
        defaults={"norm-bound-threshold": 1.5},
        for_gpu=True,
    ),
    "ncf": ModelCard(
        "models.recommenders.ncf:Ncf",
        learning_rate=1e-3,
        defaults={"norm-bound-threshold": 0.5},
    ),
    "lenet": _classifier("models.images.lenet:LeNet", norm_bound=1.0),
    "resnet8": _classifier("models.images.resnet:resnet8", norm_bound=3.0),
    "resnet18": _classifier("models.images.resnet:resnet18", norm_bound=10.0),
}
"""The models by name: all that a new one needs beside its own file."""
