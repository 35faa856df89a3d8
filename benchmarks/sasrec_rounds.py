"""The CPU's time in whole rounds of federated SASRec: 50 users of ML-1M, ClientApp, messages and server included.

    OMP_NUM_THREADS=1 python -m benchmarks.sasrec_rounds

Runs the product itself with one node in this process, and prints how much of a round's time goes where: a
median over the rounds of each part, in milliseconds.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np

from server.simulation import simulate
from settings.options import Scalar

CASES: Mapping[str, Mapping[str, Scalar]] = {
    "no attack, no defense": {},
    "cluster, union+norm-bound": {"attack": "cluster", "defense": "union+norm-bound"},
}

PARTS = {
    "the round": "server.strategy.train_round",
    "the node's answer": "server.grids.local_grid.LocalGrid._answer",
    "the learner": "client.learners.recommender.RecommenderLearner.train",
    "the gradients": "models.recommenders.sasrec_recommender.cohort_gradient",
    "reading and judging replies": "server.round.take_in",
    "the rule": "strategies.rule.Mean.aggregate",
    "union and what follows": "strategies.rules.union.Union.aggregate",
    "the server's Adam": "strategies.server_model.ServerModel.step",
}
"""What is timed, by where it is called; a part may stand inside another."""


def main() -> None:
    """Both cases, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    for name, options in CASES.items():
        print(f"{name}: milliseconds of CPU time a round, calls a round in brackets")
        for part, seconds in measure(options, arguments.rounds).items():
            if seconds:
                print(f"  {part:30}{1e3 * float(np.median(seconds)):8.1f}  ({len(seconds) / arguments.rounds:.1f})")


def measure(options: Mapping[str, Scalar], rounds: int) -> dict[str, list[float]]:
    """Seconds of CPU time of every call of every part."""
    spent: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        for part, place in PARTS.items():
            patches.enter_context(_timed(place, spent[part]))
        simulate(
            {
                "model": "sasrec",
                "dataset": "ml-1m",
                "data-dir": os.environ.get("ROBUST_FEDREC_DATA", ""),
                "engine": "local",
                "num-nodes": 1,
                "num-server-rounds": rounds,
                "eval-every": rounds,
                "eval-users": 1,
                "checkpoint-every": 0,
                "output-dir": folder,
                "tracker": "none",
                **options,
            }
        )
    return spent


def _timed(place: str, seconds: list[float]) -> Any:
    """A patch that notes the CPU time of every call of a function."""
    module, _, name = place.rpartition(".")
    owner: Any = pkgutil.resolve_name(module)
    real: Callable[..., Any] = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return real(*arguments, **named)
        finally:
            seconds.append(time.process_time() - began)

    return mock.patch.object(owner, name, timed)


if __name__ == "__main__":
    main()
