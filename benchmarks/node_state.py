"""What a node's store costs a round: ``python -m benchmarks.node_state``.

For 50 to 5,000 users a round of few and of a million hosted users, milliseconds of one round as a node runs it, without
its gradients: begin, read the users' vectors, step them, keep the attack's state, commit. Medians, and the mean of the
whole. A deployed node's commit waits for the disk (``--deployed``), a simulated one's does not.
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

from client.state.connections import outlast_power_cuts
from client.state.private_vectors import PrivateVectors
from client.state.store import FILE, Store

DIM, RATE = 64, 2e-3
CASES = ((50, 6_040), (50, 1_000_000), (500, 6_040), (500, 1_000_000), (5_000, 10_000), (5_000, 1_000_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--deployed", action="store_true", help="as a deployed node's process")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured (default: a temporary one)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.deployed:
        outlast_power_cuts()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.rounds} rounds each, d = {DIM}\n")
    print("  users     hosted   read ms   step ms  commit ms  round ms   mean ms     MiB")
    for users, hosted in CASES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            times = measured(Path(folder) / FILE, users, hosted, arguments.rounds)
            size = sum(path.stat().st_blocks * 512 for path in Path(folder).iterdir()) / (1 << 20)
        read, step, commit = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
        whole, mean = (of(map(sum, times)) * 1e3 for of in (statistics.median, statistics.mean))
        print(
            f"{users:7}{hosted:11}{read:10.2f}{step:10.2f}{commit:11.2f}{whole:10.2f}{mean:10.2f}{size:8.1f}",
            flush=True,
        )


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
