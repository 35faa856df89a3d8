"""Whole rounds on every engine: ``python -m benchmarks.engine [--case NAME …]``.

Each case is a short run of the product itself (``server.simulation`` for the engines of the project,
``flwr run`` for Flower's own), and prints the median seconds of its rounds, evaluation and start-up apart,
and the peak memory of all its processes. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.environment import keep_token
from deploy.startup import variables

WATCHED_EVERY = 3.0
"""Seconds between two looks at the memory: each takes tens of milliseconds from a run on two cores."""

PROJECT = Path(__file__).resolve().parent.parent
UNION_MULTI_KRUM = {"attack": "cluster", "defense": "union+multi-krum"}


@dataclass(frozen=True)
class Case:
    """One run: its options, its bar in milliseconds a round, and how many simulated nodes Flower makes."""

    options: Mapping[str, Any]
    bar: float | None = None
    flower_nodes: int = 0


CASES = {
    "ray": Case({"engine": "ray"}, 15),
    "local": Case({"engine": "local"}),
    "ray, attacked and defended": Case({"engine": "ray", **UNION_MULTI_KRUM}, 60),
    "flower, 2 nodes": Case({"engine": "flower"}, None, 2),
    "ray, 2 nodes": Case({"engine": "ray", "num-nodes": 2}),
    "flower, one user a node": Case({"engine": "flower", "num-server-rounds": 20}, None, 6040),
    "ray, 500 users": Case({"engine": "ray", "clients-per-round": 500, "num-server-rounds": 60}),
    "ray, 5000 users": Case({"engine": "ray", "clients-per-round": 5000, "num-server-rounds": 20}),
    "gowalla": Case({"engine": "ray", "dataset": "{data}/gowalla/gowalla-10core-unordered.inter.gz"}, 60),
    "gowalla, attacked and defended": Case(
        {
            "engine": "ray",
            "dataset": "{data}/gowalla/gowalla-10core-unordered.inter.gz",
            "attack": "cluster",
            "defense": "union+norm-bound",
            "cluster-clusters": 8,
        },
        250,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--data-dir", default=os.environ.get("ROBUST_FEDREC_DATA", ""))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(json.loads(arguments.one))
        return
    print(f"{os.cpu_count()} cores; milliseconds a round, median and mean\n")
    print(f"{'case':34}{'median':>9}{'mean':>9}{'bar':>7}{'start-up s':>12}{'peak MiB':>10}")
    for name in arguments.case or CASES:
        show(name, CASES[name], arguments.rounds, arguments.data_dir)


def show(name: str, case: Case, rounds: int, data_dir: str) -> None:
    """Run one case in processes of its own and print its line."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "dataset": "ml-1m",
            "data-dir": data_dir,
            "num-server-rounds": rounds,
            "eval-every": 1_000_000,
            "output-dir": folder,
            "run-name": "run",
            "tracker": "none",
            **{
                key: str(value).replace("{data}", data_dir) if key == "dataset" else value
                for key, value in case.options.items()
            },
        }
        command = flower_command(options, folder, case.flower_nodes) if case.flower_nodes else own_command(options)
        started = time.time()
        environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0"}
        environment |= variables(str(keep_token(Path(folder) / "ray-token")))
        if case.flower_nodes:
            # Flower starts programs of its own by name.
            environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
            environment |= {"FLWR_HOME": f"{folder}/flwr", "FLWR_LOCAL_CONTROL_API_PORT": "39593"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        peak = Peak()
        _, errors = process.communicate()
        most = peak.stop()
        path = Path(folder) / "run" / "rounds.jsonl"
        if not path.exists():
            print(f"{name:34}  failed: {errors.strip()[-600:]}")
            return
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        seconds = [line["seconds"] for line in lines[min(10, len(lines) // 4) :]]
        first = path.parent / "config.json"
        startup = first.stat().st_mtime - started
        end_superlink(folder)
    median, mean = statistics.median(seconds) * 1e3, statistics.fmean(seconds) * 1e3
    print(f"{name:34}{median:9.1f}{mean:9.1f}{case.bar or '':>7}{startup:12.1f}{most / 2**20:10.0f}", flush=True)


def own_command(options: Mapping[str, Any]) -> list[str]:
    """A run in one process of its own."""
    return [sys.executable, "-m", "benchmarks.engine", "--one", json.dumps(options)]


def flower_command(options: Mapping[str, Any], folder: str, nodes: int) -> list[str]:
    """A run by Flower's own simulation with so many nodes."""
    text = " ".join(f"{key}={json.dumps(value)}" for key, value in options.items())
    flwr = Path(sys.executable).parent / "flwr"
    federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
    return [str(flwr), "run", str(PROJECT), "--stream", "--run-config", text, "--federation-config", federation]


def run_one(options: Mapping[str, Any]) -> None:
    """The body of a case on the project's own engines."""
    from server.simulation import simulate

    simulate(options)


def end_superlink(folder: str) -> None:
    """End the local SuperLink that ``flwr run`` left behind, by its process id."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            mine = f"FLWR_HOME={folder}/flwr".encode() in path.read_bytes()
        except OSError:
            continue
        if mine:
            os.kill(int(path.parent.name), 15)


class Peak:
    """The most memory (proportional set size, bytes) that this process' children held together."""

    def __init__(self) -> None:
        self._most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Bytes at the worst moment seen."""
        self._done.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while not self._done.wait(WATCHED_EVERY):
            self._most = max(self._most, sum(_memory(process) for process in _descendants(os.getpid())))


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found, grew = {root}, True
    while grew:
        more = {child for child, parent in parents.items() if parent in found} - found
        found |= more
        grew = bool(more)
    return sorted(found - {root})


def _memory(process: int) -> int:
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


if __name__ == "__main__":
    main()
