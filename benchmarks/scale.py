"""What a round costs with 10 thousand and with 1 million users: ``python -m benchmarks.scale``.

Each line is a run of the product itself in processes of its own: the median and the least seconds of its rounds
(evaluation apart), the median of the server's processor seconds, which with engine local are those of all nodes too and
depend little on what else the machine does; seconds of start-up, the peak memory of all processes (proportional
set size), what the nodes' private vectors take on disk, and the bytes of a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.engine import Peak

DATASETS = ("scale-10k", "scale")
COHORTS = (50, 500, 5000)
ENGINES = ("ray", "local")
MIB = 1 << 20

PROCESSOR = "processor.json"
"""Where a run leaves the processor seconds of each of its rounds."""


@dataclass(frozen=True)
class Cost:
    """What one run took; seconds of a round, and bytes."""

    median: float
    fastest: float
    processor: float
    startup: float
    memory: int
    vectors: int
    up: float
    down: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", action="append", help="only this one; may be repeated")
    parser.add_argument("--users", action="append", type=int, help="users a round; may be repeated")
    parser.add_argument("--engine", action="append", choices=ENGINES)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="another option of the run")
    parser.add_argument("--data-dir", default=os.environ.get("ROBUST_FEDREC_DATA", ""))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(json.loads(arguments.one))
        return
    others = dict(option.split("=", 1) for option in arguments.option)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.rounds} rounds each\n")
    print(
        f"{'data set':11}{'engine':>7}{'users':>7}{'s a round':>11}{'fastest':>9}{'CPU s':>8}{'start-up s':>12}"
        f"{'peak MiB':>10}{'vectors MiB':>13}{'up MiB':>8}{'down MiB':>10}{'load':>6}"
    )
    cells = product(arguments.engine or ENGINES, arguments.users or COHORTS, arguments.dataset or DATASETS)
    for engine, users, dataset in cells:
        options = {
            "engine": engine,
            "dataset": dataset,
            "clients-per-round": users,
            "num-server-rounds": arguments.rounds,
            "data-dir": arguments.data_dir,
            **others,
        }
        cost = measured(options)
        print(
            f"{dataset:11}{engine:>7}{users:7}{cost.median:11.3f}{cost.fastest:9.3f}{cost.processor:8.3f}{cost.startup:12.1f}"
            f"{cost.memory / MIB:10.0f}{cost.vectors / MIB:13.1f}{cost.up / MIB:8.1f}{cost.down / MIB:10.1f}"
            f"{os.getloadavg()[0]:6.1f}",
            flush=True,
        )


def measured(options: dict[str, Any]) -> Cost:
    """Run with these options; the first quarter of the rounds, at most five, only warms up."""
    with tempfile.TemporaryDirectory() as folder:
        # The last round is always evaluated: by few users, since its time is not that of a round.
        common = {"eval-every": 1_000_000, "eval-users": 50, "output-dir": folder, "run-name": "run", "tracker": "none"}
        started = time.time()
        command = [sys.executable, "-m", "benchmarks.scale", "--one", json.dumps({**common, **options})]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        peak = Peak()
        _, errors = process.communicate()
        memory = peak.stop()
        run = Path(folder) / "run"
        if process.returncode:
            raise SystemExit(errors)
        lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
        lines = lines[min(5, len(lines) // 4) :]
        seconds = [line["seconds"] for line in lines]
        return Cost(
            median=statistics.median(seconds),
            fastest=min(seconds),
            processor=statistics.median(json.loads((run / PROCESSOR).read_text())[-len(lines) :]),
            startup=(run / "config.json").stat().st_mtime - started,
            memory=memory,
            vectors=sum(path.stat().st_blocks * 512 for path in run.glob("nodes/**/state.sqlite*")),
            up=statistics.fmean(line["bytes_up"] for line in lines),
            down=statistics.fmean(line["bytes_down"] for line in lines),
        )


def run_one(options: dict[str, Any]) -> None:
    """The body of a line, in a process of its own."""
    from server.round import train_round
    from server.simulation import simulate

    spent = []

    def timed(*arguments: Any) -> Any:
        began = time.process_time()
        result = train_round(*arguments)
        spent.append(time.process_time() - began)
        return result

    with patch("server.strategy.train_round", timed):
        directory, _ = simulate(options)
    (directory / PROCESSOR).write_text(json.dumps(spent))


if __name__ == "__main__":
    main()
