"""The ClientApp: a node, the users it hosts, and their training."""

from __future__ import annotations

from robust_fedrec import require_own

require_own(__name__)

import importlib
from typing import TYPE_CHECKING

from settings.options import OptionError

if TYPE_CHECKING:
    from client.learners.learner import LearnerClass

LEARNERS = {
    "recommendation": "client.learners.recommender:RecommenderLearner",
    "classification": "client.learners.images:ImageLearner",
}
"""What a node runs for a task; imported when it is needed, so that a process loads no other."""


def learner_class(model: str) -> LearnerClass:
    """The learner of a model; raises ``OptionError`` for an unknown one."""
    # Imported here: the process that Flower starts for a message needs no model.
    from models import MODELS

    if model not in MODELS:
        raise OptionError(f"model = {model!r}: expected one of {', '.join(MODELS)}.")
    module, _, name = LEARNERS[MODELS[model].task].partition(":")
    found: LearnerClass = getattr(importlib.import_module(module), name)
    return found
