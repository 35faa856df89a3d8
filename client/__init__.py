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
    "mf": "client.learners.factorization:Factorization",
    "sasrec": "client.learners.sasrec:SequenceLearner",
    "lenet": "client.learners.images:ImageLearner",
    "resnet8": "client.learners.images:ImageLearner",
    "resnet18": "client.learners.images:ImageLearner",
}
"""What a node runs for each model; imported when it is needed, so that a process loads no other."""


def learner_class(model: str) -> LearnerClass:
    """The learner of a model; raises ``OptionError`` for an unknown one."""
    if model not in LEARNERS:
        raise OptionError(f"model = {model!r}: expected one of {', '.join(LEARNERS)}.")
    module, _, name = LEARNERS[model].partition(":")
    found: LearnerClass = getattr(importlib.import_module(module), name)
    return found
