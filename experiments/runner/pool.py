"""Many cells, a few at a time, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from experiments.runner.cell import Cell, finished
from experiments.runner.follow import Follower
from experiments.runner.worker import TAKEN
from server.simulation import PROJECT
from settings.options import Scalar

ALONE: Mapping[str, Scalar] = {"engine": "local", "num-nodes": 1, "checkpoint-every": 0}
"""How a cell runs in its own process: a half-finished one is made anew, so that it needs no checkpoints."""

LOOK_EVERY = 0.2
"""Seconds between two looks at the running cells."""

TAKEN_PAUSE = 5.0
"""Seconds until a cell that another process is running is tried again."""

GIBIBYTES_PER_CELL = 1.0
"""ML-1M takes half of it."""


class Watcher(Protocol):
    """Is told how a grid goes on."""

    def began(self, cell: Cell) -> None: ...

    def at(self, cell: Cell, rounds: int, latest: str) -> None: ...

    def ended(self, cell: Cell, problem: str | None) -> None: ...


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen[str]
    follower: Follower
    log: Path


def run_cells(
    cells: Sequence[Cell],
    runs: Path,
    jobs: int,
    watcher: Watcher,
    where: Mapping[str, Scalar] | None = None,
    fits: Callable[[Cell], bool] = lambda cell: True,
) -> dict[Cell, str]:
    """Run the cells, ``jobs`` at a time; returns those that failed, each with its problem.

    ``where``: options for all of them that change no numbers (engine, data-dir). A cell that does not fit any more when
    its turn comes is left out. When this is left, by an exception too, no process of its making lives. A cell that is
    complete already is not run again.
    """
    waiting, running = deque(cells), list[_Running]()
    problems: dict[Cell, str] = {}
    not_before: dict[Cell, float] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs and not_before.get(waiting[0], 0.0) <= time.monotonic():
                cell = waiting.popleft()
                if not fits(cell):
                    continue
                running.append(_start(cell, runs, {**ALONE, **(where or {})}))
                watcher.began(cell)
            if not running and not waiting:
                break
            time.sleep(LOOK_EVERY)
            for one in list(running):
                one.follower.look()
                watcher.at(one.cell, one.follower.rounds, one.follower.latest)
                if one.process.poll() is None:
                    continue
                running.remove(one)
                _close(one)
                if one.process.returncode == TAKEN:
                    # Another grid is at it: look again later whether it is done, or given up.
                    not_before[one.cell] = time.monotonic() + TAKEN_PAUSE
                    waiting.append(one.cell)
                    continue
                problem = _problem(one, runs)
                if problem:
                    problems[one.cell] = problem
                watcher.ended(one.cell, problem)
    finally:
        for one in running:
            one.process.kill()
            _close(one)
    return problems


def default_jobs(gibibytes: float = GIBIBYTES_PER_CELL) -> int:
    """As many cells at a time as there are cores, or as the memory that is available has room for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(_available_memory() / (gibibytes * 2**30))))


def _available_memory() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return float("inf")
    return kibibytes * 1024.0


def _start(cell: Cell, runs: Path, where: Mapping[str, Scalar]) -> _Running:
    options = {**cell.options, **where, "output-dir": str(runs), "run-name": cell.name}
    logs = runs / ".logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{cell.name}.log"
    started = time.time()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.runner.worker"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
            cwd=PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            # A terminal's Ctrl-C reaches this process alone, which then ends its workers.
            start_new_session=True,
        )
    _send(process, options)
    return _Running(cell, process, Follower(runs / cell.name, started), log)


def _send(process: subprocess.Popen[str], options: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(options) + "\n")
    process.stdin.flush()


def _close(one: _Running) -> None:
    assert one.process.stdin is not None
    one.process.stdin.close()
    one.process.wait()
    one.follower.close()


def _problem(one: _Running, runs: Path) -> str | None:
    if one.process.returncode == 0 and finished(one.cell, runs) is not None:
        return None
    lines = [line for line in one.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else f'exit status {one.process.returncode}'} (all of it: {one.log})"
