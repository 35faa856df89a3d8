"""Recommenders and classifiers with their losses, in plain torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelCard:
    """What a run needs to know of a model before it loads it.

    ``learning_rate``: the paper's (appendix); ``defaults``: other options whose paper value depends on the
    model, for runs that leave them at 0.
    """

    learning_rate: float
    defaults: Mapping[str, float] = field(default_factory=dict)


MODELS = {
    "mf": ModelCard(learning_rate=2e-3, defaults={"norm-bound-threshold": 0.1}),
    "sasrec": ModelCard(learning_rate=1e-3, defaults={"norm-bound-threshold": 1.5}),
}
"""The models by name."""
