"""One tiny run that several tests look at: attacked, defended, every other round's updates recorded."""

import json
from pathlib import Path

import pytest

from server.simulation import simulate

ROUNDS = 6


@pytest.fixture(scope="session")
def attacked_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory."""
    directory, _ = simulate(
        {
            "engine": "local",
            "num-nodes": 1,
            "num-server-rounds": ROUNDS,
            "eval-every": 2,
            "attack": "cluster",
            "malicious-fraction": 0.05,
            "defense": "union+norm-bound",
            "record-updates": "2",
            "checkpoint-every": 0,
            "output-dir": str(tmp_path_factory.mktemp("runs")),
        }
    )
    return directory


@pytest.fixture(scope="session")
def attacked_rounds(attacked_run: Path) -> list[dict]:
    """Its lines of ``rounds.jsonl``."""
    return [json.loads(line) for line in (attacked_run / "rounds.jsonl").read_text().splitlines()]
