"""Check and time everything that runs on a GPU, in under five minutes: ``python -m benchmarks.gpu --directory OUT``.

First short trainings of each model on the GPU twice and on the CPU once: whether the GPU gives the same model to the
bit (option ``deterministic``), and how far it is from the CPU's. Then the tests of ``tests/gpu/on_device.py``, and the
measurements of ``benchmarks.training``, ``rules`` and ``sasrec``. What a step prints stands in a file of OUT, too;
a step that fails or takes too long ends none of the others. Needs no network.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import safetensors.torch
import torch

from models.device import chosen, described
from server.simulation import simulate
from settings.options import Scalar

RUN: dict[str, Scalar] = {
    "engine": "local",
    "dataset": "synthetic",
    "num-nodes": 2,
    "num-server-rounds": 5,
    "clients-per-round": 50,
    "malicious-fraction": 0.1,
    "checkpoint-every": 0,
    "tracker": "none",
}

TRAININGS: dict[str, dict[str, Scalar]] = {
    "mf": {"model": "mf", "attack": "cluster", "defense": "union+norm-bound"},
    "mf, contrastive": {"model": "mf", "contrastive-task": "on"},
    "sasrec": {"model": "sasrec", "attack": "cluster", "defense": "union+norm-bound"},
    "ncf": {"model": "ncf", "attack": "gaussian", "defense": "krum"},
    "lenet": {
        "model": "lenet",
        "dataset": "synthetic-images",
        "num-clients": 20,
        "clients-per-round": 10,
        "attack": "deep-poisoning",
        "defense": "trimmed-mean",
    },
}

COMMANDS = {
    "tests": ("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/gpu/on_device.py"),
    "training": ("benchmarks.training", "--dataset=synthetic", "--rounds=20", "--device=cuda"),
    "rules": ("benchmarks.rules", "--repeats=5", "--device=cuda"),
    "sasrec": ("benchmarks.sasrec", "--rounds=10", "--device=cuda"),
}
"""Each ``python -m``."""

MOST_SECONDS = 60.0
"""For each of the commands."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="for the runs and what is printed")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    device = chosen(arguments.device, for_gpu=True)
    print(f"torch {torch.__version__}, {described(device)}")
    print(f"\n{'training':18}{'GPU s':>8}{'again s':>9}{'CPU s':>8}{'same bits':>11}{'from the CPU':>14}", flush=True)
    for name, options in TRAININGS.items():
        print(f"{name:18}{_compared(options, arguments.directory / 'runs', arguments.device)}", flush=True)
    for name, command in COMMANDS.items():
        _run(command, arguments.directory / f"{name}.txt")


def _compared(options: dict[str, Scalar], directory: Path, device: str) -> str:
    """A line of the table; what was raised where a training fails."""
    try:
        (first, second, here), seconds = zip(
            *(_trained({**RUN, **options, "device": where}, directory) for where in (device, device, "cpu")),
            strict=True,
        )
    except Exception as error:
        return f"  {type(error).__name__}: {error}"
    same = all(torch.equal(first[key], second[key]) for key in first)
    difference = max(float((first[key] - here[key]).abs().max()) for key in first if first[key].numel())
    times = f"{seconds[0]:8.2f}{seconds[1]:9.2f}{seconds[2]:8.2f}"
    return f"{times}{'yes' if same else 'NO':>11}{difference:14.1e}"


def _trained(options: dict[str, Scalar], directory: Path) -> tuple[dict[str, torch.Tensor], float]:
    """The model of a run, and the seconds that all of it took."""
    started = time.perf_counter()
    run, summary = simulate({**options, "output-dir": str(directory)})
    seconds = time.perf_counter() - started
    if summary["failed_answers"] or summary["skipped_rounds"]:
        raise RuntimeError(f"{summary['failed_answers']} failed answers; see {run}")
    return safetensors.torch.load_file(run / "model.safetensors"), seconds


def _run(command: tuple[str, ...], file: Path) -> None:
    print(f"\n== python -m {' '.join(command)}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    ended = ""
    with file.open("w", encoding="utf-8") as output:
        try:
            full = [sys.executable, "-m", *command]
            done = subprocess.run(full, stdout=output, stderr=subprocess.STDOUT, timeout=MOST_SECONDS, check=False)
            ended = f"ended with {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            ended = f"took more than {MOST_SECONDS:.0f} s"
    print(file.read_text(encoding="utf-8"), ended, sep="\n", flush=True)


if __name__ == "__main__":
    main()
