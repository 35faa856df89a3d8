"""Compiled loops, torch, and a loop over users, in one run: ``python -m benchmarks.compiled``.

A round of matrix factorization without a server around it, and with UNION's contrastive task, each way in a process
of its own with one thread: milliseconds of its CPU time, its peak memory, and pairs a second. For the last,
``implicit`` and ``cornac`` publish 1.3 to 2.0 million triples a second and core at 20 factors, and 0.77 to 1.2 at 80;
they step the table at once and keep no gradient a user, and these rounds have 64 factors and dropout.

Then whole rounds of the product on ``engine = "local"`` with one node, without attack and attacked: CPU milliseconds of
a round, which are those of a run of so many rounds less those of a run of a few.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
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
from server.simulation import simulate

WARM_UP = 2
"""Rounds before the clock starts; ``cohorts`` adds as many."""

WAYS = {
    "compiled": ("compiled", 0.0),
    "torch": ("torch", 0.0),
    "loop over users": ("loop", 0.0),
    "compiled, contrastive": ("compiled", 1.0),
    "torch, contrastive": ("torch", 1.0),
}

RUNS = {
    "no attack, no defense": {},
    "ClusterAttack 1 %": {"attack": "cluster"},
    "ClusterAttack, UNION + NormBound": {"attack": "cluster", "defense": "union+norm-bound"},
    "ClusterAttack, UNION + MultiKrum": {"attack": "cluster", "defense": "union+multi-krum"},
}
"""Options of the whole runs by name."""

FEW_ROUNDS = 10
"""Rounds of the run whose time is that of everything but rounds: start, first calls, evaluation, results."""


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
    parser.add_argument("--way", choices=[*WAYS, *RUNS], help="measure this one alone, in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.way in RUNS:
        print(json.dumps(whole_rounds(arguments)))
        return
    if arguments.way:
        interactions = load(arguments.dataset, arguments.data_dir)
        shard = shard_of(leave_one_out(interactions), np.arange(interactions.num_users))
        print(json.dumps(measured(shard, arguments.way, arguments.users, arguments.rounds)))
        return
    print(f"{arguments.dataset}, {arguments.users} users a round")
    print(f"{'way':24}{'ms':>8}{'MiB':>8}{'M pairs/s':>11}{'ratio':>8}")
    base: dict[float, float] = {}
    for way, (_, weight) in WAYS.items():
        found = in_a_process(way)
        ratio = found["ms"] / base.setdefault(weight, found["ms"])
        cells = f"{found['ms']:8.1f}{found['mib']:8.0f}{found['pairs'] / found['ms'] / 1e3:11.2f}{ratio:8.1f}"
        print(f"{way:24}{cells}", flush=True)
    print(f"\n{'whole rounds':36}{'ms':>8}{'MiB':>8}")
    for way in RUNS:
        found = in_a_process(way)
        print(f"{way:36}{found['ms']:8.1f}{found['mib']:8.0f}", flush=True)


def in_a_process(way: str) -> dict[str, float]:
    """What this program measures of one way in a process of its own."""
    # Flags that are given twice count as given last.
    command = [sys.executable, "-m", "benchmarks.compiled", *sys.argv[1:], "--way", way]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


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
    return {"ms": statistics.median(milliseconds), "mib": peak_mib(), "pairs": statistics.mean(pairs)}


def whole_rounds(arguments: argparse.Namespace) -> dict[str, float]:
    """The mean CPU milliseconds of a whole round, and the process's peak MiB."""
    torch.set_num_threads(1)

    def seconds(rounds: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            options = {
                "engine": "local",
                "num-nodes": 1,
                "dataset": arguments.dataset,
                "data-dir": arguments.data_dir or os.environ.get("ROBUST_FEDREC_DATA", ""),
                "clients-per-round": arguments.users,
                "num-server-rounds": rounds,
                "eval-every": rounds,
                "checkpoint-every": 0,
                "output-dir": folder,
                "tracker": "none",
                **RUNS[arguments.way],
            }
            began = time.process_time()
            simulate(options)
            return time.process_time() - began

    seconds(FEW_ROUNDS)
    few = seconds(FEW_ROUNDS)
    return {"ms": 1e3 * (seconds(FEW_ROUNDS + arguments.rounds) - few) / arguments.rounds, "mib": peak_mib()}


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
