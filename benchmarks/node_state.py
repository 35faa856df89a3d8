"""What a node's store costs a round: ``python -m benchmarks.node_state``.

For 50 to 5,000 users a round of few and of a million hosted users, median milliseconds of one round as a node
runs it, without its gradients: begin, read the users' vectors, step them, keep the attack's state, commit to the disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from client.state.private_vectors import PrivateVectors
from client.state.store import FILE, Store

DIM, RATE = 64, 2e-3
CASES = ((50, 6_040), (50, 1_000_000), (500, 6_040), (500, 1_000_000), (5_000, 10_000), (5_000, 1_000_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured (default: a temporary one)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.rounds} rounds each, d = {DIM}\n")
    print(f"{'users':>7}{'hosted':>11}{'read ms':>10}{'step ms':>10}{'commit ms':>11}{'round ms':>10}{'MiB':>8}")
    for users, hosted in CASES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            times = measured(Path(folder) / FILE, users, hosted, arguments.rounds)
            size = sum(path.stat().st_blocks * 512 for path in Path(folder).iterdir()) / (1 << 20)
        read, step, commit = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
        whole = statistics.median(map(sum, times)) * 1e3
        print(f"{users:7}{hosted:11}{read:10.2f}{step:10.2f}{commit:11.2f}{whole:10.2f}{size:8.1f}", flush=True)


def measured(path: Path, users: int, hosted: int, rounds: int) -> list[tuple[float, float, float]]:
    """Seconds of each round to read, to step, and to commit; the first three rounds warm up."""
    store, generator, times = Store(path), np.random.default_rng(0), []
    private = PrivateVectors(store, hosted, DIM, 0)
    for server_round in range(1, rounds + 4):
        chosen = np.sort(generator.choice(hosted, users, replace=False))
        gradients = torch.from_numpy(generator.normal(size=(users, DIM)).astype(np.float32))
        marks = [time.perf_counter()]
        with store.begin():
            store.begin_round(server_round)
            store.forget(server_round - 20)
            state = private.at(chosen, server_round, RATE)
            marks.append(time.perf_counter())
            private.step(chosen, state, gradients, server_round, RATE)
            store.keep_attack({"clusters": float(server_round)})
            marks.append(time.perf_counter())
        marks.append(time.perf_counter())
        times.append((marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]))
    return times[3:]


if __name__ == "__main__":
    main()
