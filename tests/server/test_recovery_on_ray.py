"""Server, actors and Ray itself die at once in the middle of a round: a resumed run ends to the bit the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from what_runs_leave import nodes_state, results

from deploy.processes import descendants, wait_until
from server.simulation import PROJECT

EVERY = 5
OPTIONS: dict[str, Any] = {
    "engine": "ray",
    "num-nodes": 2,
    "num-server-rounds": 14,
    "eval-every": 4,
    "checkpoint-every": EVERY,
    "clients-per-round": 30,
    "embedding-dim": 8,
    "attack": "cluster",
    "malicious-fraction": 0.1,
    "defense": "union+norm-bound",
    "tracker": "none",
    "run-name": "run",
}

CHILD = """
import json, sys, time
from pathlib import Path
options, kill_at, marker = json.loads(sys.argv[1])
import ray
from server.grids import ray_grid
from server import simulation
push, collect = ray_grid.RayGrid.push_messages, ray_grid.RayGrid._collect
current = []
def pushing(self, messages):
    messages = list(messages)
    current[:] = [(message.metadata.message_type, message.metadata.group_id) for message in messages]
    return push(self, messages)
def collecting(self, ids, timeout):
    if kill_at and current and current[0] == ("train", str(kill_at)):
        # One node has trained the round, the other perhaps; the server has none of their answers.
        ray.wait([self._pending[one][1] for one in ids], num_returns=1)
        Path(marker).touch()
        time.sleep(600)
    return collect(self, ids, timeout)
ray_grid.RayGrid.push_messages, ray_grid.RayGrid._collect = pushing, collecting
simulation.simulate(options)
"""

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a run in a process of its own, which comes to a halt in the middle of the round ``kill_at``."""
    started: list[subprocess.Popen[bytes]] = []

    def starting(folder: Path, kill_at: int = 0, **options: Any) -> subprocess.Popen[bytes]:
        chosen = {**OPTIONS, "output-dir": str(folder), **options}
        arguments = json.dumps([chosen, kill_at, str(folder / "halted")])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
        with (folder / "output.txt").open("ab") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", CHILD, arguments],
                    cwd=PROJECT,
                    env=environment,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )
        return started[-1]

    yield starting
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def completed(process: subprocess.Popen[bytes], folder: Path) -> Path:
    assert process.wait(240) == 0, (folder / "output.txt").read_text()
    return folder / "run"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    return completed(start(folder), folder)


def drawn_rounds() -> dict[str, int]:
    """A round right after a checkpoint, and one that is neither that nor the one after which the next is due."""
    generator = np.random.default_rng(2034)
    rounds = np.arange(1, OPTIONS["num-server-rounds"] + 1)
    after, between = rounds[(rounds > EVERY) & (rounds % EVERY == 1)], rounds[~np.isin(rounds % EVERY, [0, 1])]
    return {"after a checkpoint": int(generator.choice(after)), "between two": int(generator.choice(between))}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="who belongs to whom is read from /proc")
@pytest.mark.parametrize("when", drawn_rounds())
def test_a_run_on_ray_that_is_killed_in_a_round_and_resumed_ends_to_the_bit_the_same(
    tmp_path: Path, start: Start, uninterrupted: Path, when: str
) -> None:
    kill_at = drawn_rounds()[when]
    first = start(tmp_path, kill_at)
    wait_until(
        lambda: (tmp_path / "halted").exists() or first.poll() is not None, 240, f"The run is in round {kill_at}"
    )
    assert first.poll() is None, (tmp_path / "output.txt").read_text()
    kin = descendants(first.pid)
    assert len(kin) > OPTIONS["num-nodes"], "Ray's own processes, and the nodes'"
    ahead = max(state["newest"] for state in nodes_state(tmp_path / "run").values())
    assert ahead == kill_at, "a node has trained what the server never heard of"
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    # At once: processes of the killed run may still be about to end.
    second = start(tmp_path, resume="latest")
    wait_until(lambda: not any(one.alive for one in kin), 60, "All processes of the killed run are gone")
    directory = completed(second, tmp_path)
    resumed_at = json.loads((directory / "checkpoints" / "resumes.json").read_text())["resumed_at"]
    assert resumed_at == [(kill_at - 1) // EVERY * EVERY]
    assert results(directory) == results(uninterrupted)
    assert nodes_state(directory) == nodes_state(uninterrupted)
    assert any(state["attack"] for state in nodes_state(directory).values())
