"""The ClientApp: a node, the users it hosts, and their training."""

from __future__ import annotations

import importlib

from protocol.options import OptionError

LEARNERS = {"mf": "client.factorization:Factorization", "sasrec": "client.sasrec:SequenceLearner"}
"""What a node runs for each model; imported when it is needed, so that a process loads no other."""


def learner_class(model: str):  # type: ignore[no-untyped-def]
    """The learner of a model; raises ``OptionError`` for an unknown one."""
    if model not in LEARNERS:
        raise OptionError(f"model = {model!r}: expected one of {', '.join(LEARNERS)}.")
    module, _, name = LEARNERS[model].partition(":")
    return getattr(importlib.import_module(module), name)
