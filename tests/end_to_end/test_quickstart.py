"""Somebody else's PyTorch app under ``flwr run``: an attack that ends FedAvg's training, and Robust that bears it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_flwr_run import PROJECT, Flower

APP = Path(__file__).parent / "quickstart"


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not Path("/proc").is_dir():
        pytest.skip("the test ends Flower's processes by what /proc says of them")
    started = Flower(tmp_path_factory.mktemp("quickstart"))
    # As where this project is installed.
    started.environment["PYTHONPATH"] = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    started.environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
    yield started
    started.stop()


def outcome(flower: Flower, out: Path, **options: object) -> dict[str, Any]:
    """What the app's server found at the end of a run with ten clients, the first two of them malicious."""
    text = " ".join(f"{name}={json.dumps(value)}" for name, value in {**options, "out": str(out)}.items())
    command = ["flwr", "run", str(APP), "--stream", "--run-config", text]
    command += ["--federation-config", "num-supernodes=10 client-resources-num-cpus=1"]
    done = subprocess.run(command, env=flower.environment, cwd=flower.home, capture_output=True, text=True, timeout=300)
    assert out.exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_robust_bears_what_ends_fed_avg(flower: Flower, tmp_path: Path) -> None:
    plain = outcome(flower, tmp_path / "plain.json", attack="sign-flip")
    defended = outcome(flower, tmp_path / "defended.json", attack="sign-flip", rule="nnm+multi-krum")
    # Three classes: a third is right by chance. The clouds overlap little.
    assert plain["accuracy"] < 0.7
    assert defended["accuracy"] > 0.9
    for metrics in defended["train"].values():
        assert metrics["robust-rejected"] == 0
        assert metrics["robust-multi-krum-dropped"] == 2
