"""Many nodes of one user each, some of which fail at random: do all rounds end, and does nothing grow?

    python -m benchmarks.load --nodes 200 --rounds 20 --failing 0.1
    make soak

Which nodes fail in a round depends on (round, node) alone: most raise, and now and then one ends its process by
SIGKILL, and with it the nodes that share it. Prints the memory, open files, shared memory and temporary files of all
processes after each few rounds, and what came in. ``--steady`` fails where any of it grew.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import Context, Message

from settings.options import Scalar

SELF = Path(__file__).resolve()

MORTAL = "ROBUST_FEDREC_LOAD_MORTAL"
"""Set where each node has a process of its own, so that it may die."""

FAILING = "ROBUST_FEDREC_LOAD_FAILING"
"""Tells the nodes' processes which share of them raises in a round, and which share dies."""


def write_data(path: Path, users: int, items: int = 400, each: int = 30) -> None:
    """An atomic file with so many users, of ``each`` interactions."""
    generator = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        chosen = generator.choice(items, each, replace=False).tolist()
        lines += [f"{user}\t{item}\t{time}" for time, item in enumerate(chosen)]
    path.write_text("\n".join(lines) + "\n")


def fails(server_round: int, node: int, raising: float, dying: float) -> str:
    """How a node fails in a round: "", "raises" or "dies"."""
    draw = float(np.random.default_rng([7, server_round, node]).random())
    return "dies" if draw < dying else ("raises" if draw < dying + raising else "")


def failing_app(message: Message, context: Context) -> Message:
    """The ClientApp of a node that fails now and then."""
    from client.app import app

    if message.metadata.message_type == "train":
        raising, dying = map(float, os.environ[FAILING].split())
        way = fails(int(message.metadata.group_id), context.node_id, raising, dying)
        if way == "dies" and MORTAL in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        if way:
            raise RuntimeError("this node fails in this round")
    return app(message, context)


def family() -> list[int]:
    """This process and all that descend from it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def memory(pids: list[int], kind: str = "Pss:") -> float:
    """Their proportional set size in MiB: what is shared between them counts once.

    ``kind``: the line of ``smaps_rollup``, such as ``Pss_Shmem:`` for shared memory alone.
    """
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup if line.startswith(kind))
    return total / 1024


@dataclass(frozen=True)
class Usage:
    """What all processes have after a round.

    MiB of memory, and of the server's alone; open files; MiB in shared memory; and files in the temporary folder,
    without Ray's logs, of which every process has some.
    """

    server_round: int
    processes: int
    server: float
    memory: float
    descriptors: int
    shared: float
    temporary: int

    @classmethod
    def now(cls, server_round: int, temporary: Path) -> Usage:
        """As it is at this moment."""
        pids = family()
        return cls(
            server_round,
            len(pids),
            memory([os.getpid()]),
            memory(pids),
            sum(map(open_files, pids)),
            memory(pids, "Pss_Shmem:"),
            sum(1 for path in temporary.rglob("*") if path.is_file() and "logs" not in path.parts),
        )

    def __str__(self) -> str:
        return (
            f"round {self.server_round:5}: server {self.server:7.1f} MiB, all {self.processes} processes "
            f"{self.memory:8.1f} MiB, {self.descriptors:5} open files, {self.shared:6.1f} MiB shared, "
            f"{self.temporary} temporary files"
        )


ALLOWED = {"server": 1.1, "memory": 1.1, "descriptors": 1.1, "shared": 1.1, "temporary": 1.0}
"""The last fifth's median over that of the second fifth, at most: the first is for what fills once."""


def growth(taken: Sequence[Usage]) -> dict[str, float]:
    """Of each kind, the last fifth's median over that of the second fifth."""
    fifth = max(1, len(taken) // 5)
    early, late = taken[fifth : 2 * fifth], taken[-fifth:]

    def median(usages: Sequence[Usage], kind: str) -> float:
        return float(statistics.median(getattr(usage, kind) for usage in usages))

    return {kind: median(late, kind) / max(median(early, kind), 1.0) for kind in ALLOWED}


def open_files(pid: int) -> int:
    """How many descriptors a process has open."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


def run(
    nodes: int, rounds: int, failing: float, dying: float, together: int, engine: str, every: int
) -> tuple[dict[str, Any], list[Usage]]:
    """One run; returns the measurements, and what all processes had now and then."""
    from server.config import server_config
    from server.grids import ray_access
    from server.grids.local_grid import LocalGrid
    from server.results.run_directory import make_run_directory
    from server.round import train_round
    from server.simulation import default_options
    from server.training import run_training

    os.environ[FAILING] = f"{failing} {dying}"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as temporary:
        os.environ["TMPDIR"] = tempfile.tempdir = temporary
        path = Path(folder) / "load.inter"
        write_data(path, nodes)
        options: dict[str, Scalar] = {
            "dataset": str(path), "data-dir": folder, "output-dir": folder, "num-nodes": nodes, "engine": engine,
            "num-server-rounds": rounds, "clients-per-round": nodes, "eval-every": rounds, "embedding-dim": 16,
            "malicious-fraction": 0.0, "checkpoint-every": 5, "node-timeout": 1800.0, "round-timeout": 120.0,
        }  # fmt: skip
        run_config = {**default_options(), **options}
        config = server_config(run_config)
        directory = make_run_directory(config)
        taken: list[Usage] = []

        def measured(*arguments: Any) -> Any:
            after, outcome = train_round(*arguments)
            server_round = outcome.server_round
            if server_round % every == 0 or server_round == 1:
                taken.append(Usage.now(server_round, Path(temporary)))
                print(taken[-1], flush=True)
            return after, outcome

        patched = patch("server.strategy.train_round", measured)
        patched.start()
        started = time.monotonic()
        if engine == "ray":
            os.environ[MORTAL] = "1"
            ray_access.start_ray("")
            from server.grids import ray_grid

            placement = ray_grid.Placement(nodes, together=together)
            app = "benchmarks.load:failing_app"
            grid = ray_grid.RayGrid(app, SELF.parent.parent, 1, run_config, placement, str(directory / "nodes"))
        else:
            grid = LocalGrid(failing_app, run_config, nodes, str(directory / "nodes"))  # type: ignore[arg-type, assignment]
        summary = run_training(grid, config, directory)
        patched.stop()
        seconds = time.monotonic() - started
        lines = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
        expected = [
            sum(bool(fails(row["round"], node, failing, dying)) for node in range(1, nodes + 1)) for row in lines
        ]
        if engine == "ray":
            grid.close()
        measurements = {
            "nodes": nodes,
            "rounds ended": len(lines),
            "rounds skipped": summary["skipped_rounds"],
            "answers that failed, of which meant to": (sum(len(row["failed_nodes"]) for row in lines), sum(expected)),
            "processes that were killed": sum(
                fails(row["round"], node, failing, dying) == "dies" for row in lines for node in range(1, nodes + 1)
            ),
            "updates": sum(row["updates"] for row in lines),
            "median seconds a round": round(float(np.median([row["seconds"] for row in lines])), 3),
            "seconds in all": round(seconds, 1),
            "server MiB, first and last": (round(taken[0].server, 1), round(taken[-1].server, 1)),
            "all MiB, first and last": (round(taken[0].memory), round(taken[-1].memory)),
        }
        return measurements, taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--failing", type=float, default=0.1, help="share of the nodes that raise in a round")
    parser.add_argument("--dying", type=float, default=0.0005, help="share of the nodes that end their process")
    parser.add_argument("--together", type=int, default=10, help="nodes that share a process of Ray's")
    parser.add_argument("--engine", choices=["ray", "local"], default="ray")
    parser.add_argument("--every", type=int, default=5, help="rounds between two looks at memory")
    parser.add_argument("--steady", action="store_true", help="fail where anything grew, or not all rounds ended")
    arguments = vars(parser.parse_args())
    steady = arguments.pop("steady")
    measurements, taken = run(**arguments)
    for name, value in measurements.items():
        print(f"{name}: {value}")
    grown = growth(taken)
    for kind, ratio in grown.items():
        print(f"{kind}: last fifth over second fifth {ratio:.3f}")
    failed, meant = measurements["answers that failed, of which meant to"]
    if steady and (too_much := [kind for kind, ratio in grown.items() if ratio > ALLOWED[kind]]):
        sys.exit(f"Grew: {', '.join(too_much)}.")
    if steady and (measurements["rounds ended"] < arguments["rounds"] or failed < meant):
        sys.exit("Not all rounds ended, or not all faults were met.")


if __name__ == "__main__":
    sys.path.insert(0, str(SELF.parent.parent))
    main()
