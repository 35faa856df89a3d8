"""Compiled loops, torch, and a loop over users, in one run: ``python -m benchmarks.compiled``.

A round of matrix factorization without a server around it, and with UNION's contrastive task, each way in a process
of its own with one thread: milliseconds of its CPU time, its peak memory, and pairs a second. For the last,
``implicit`` and ``cornac`` publish 1.3 to 2.0 million triples a second and core at 20 factors, and 0.77 to 1.2 at 80;
they step the table at once and keep no gradient a user, and these rounds have 64 factors and dropout.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from torch import Tensor

from benchmarks.training import Federation, ObviousFederation, cohorts
from data import load
from data.interactions import leave_one_out
from data.shard import Shard, shard_of
from models.recommenders.mf_recommender import MatrixFactorization, torch_gradient
from models.recommenders.recommender import CohortGradient, Training
from protocol.requests import LossOptions

WARM_UP = 2
"""Rounds before the clock starts; ``cohorts`` adds as many."""

WAYS = {
    "compiled": ("compiled", 0.0),
    "torch": ("torch", 0.0),
    "loop over users": ("loop", 0.0),
    "compiled, contrastive": ("compiled", 1.0),
    "torch, contrastive": ("torch", 1.0),
}


class TorchFactorization(MatrixFactorization):
    """The same gradient as a GPU computes it, on a CPU; the draws are those of the compiled loops."""

    def gradient(self, table: Tensor, shared: Tensor, training: Training) -> CohortGradient:
        """See ``Recommender.gradient``."""
        return torch_gradient(table, training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--way", choices=WAYS, help="measure this one alone, in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.way:
        interactions = load(arguments.dataset, arguments.data_dir)
        shard = shard_of(leave_one_out(interactions), np.arange(interactions.num_users))
        print(json.dumps(measured(shard, arguments.way, arguments.users, arguments.rounds)))
        return
    print(f"{arguments.dataset}, {arguments.users} users a round")
    print(f"{'way':24}{'ms':>8}{'MiB':>8}{'M pairs/s':>11}{'ratio':>8}")
    base: dict[float, float] = {}
    for way, (_, weight) in WAYS.items():
        # Flags that are given twice count as given last.
        command = [sys.executable, "-m", "benchmarks.compiled", *sys.argv[1:], "--way", way]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        ratio = found["ms"] / base.setdefault(weight, found["ms"])
        cells = f"{found['ms']:8.1f}{found['mib']:8.0f}{found['pairs'] / found['ms'] / 1e3:11.2f}{ratio:8.1f}"
        print(f"{way:24}{cells}", flush=True)


def measured(shard: Shard, way: str, users: int, rounds: int) -> dict[str, float]:
    """The median CPU milliseconds of a round, the process's peak MiB, and the pairs of an average round."""
    torch.set_num_threads(1)
    kind, weight = WAYS[way]
    loss, device = LossOptions(contrastive_weight=weight), torch.device("cpu")
    federation: Federation | ObviousFederation
    if kind == "loop":
        federation = ObviousFederation(shard, loss, device)
    else:
        federation = Federation(shard, loss, device, TorchFactorization() if kind == "torch" else None)
    milliseconds, pairs = [], []
    for server_round, cohort in enumerate(cohorts(shard, users, rounds), start=1):
        began = time.process_time()
        federation.train(cohort, server_round)
        if server_round > WARM_UP:
            milliseconds.append(1e3 * (time.process_time() - began))
            pairs.append(float(shard.num_examples[cohort].sum()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms": statistics.median(milliseconds), "mib": peak, "pairs": statistics.mean(pairs)}


if __name__ == "__main__":
    main()
