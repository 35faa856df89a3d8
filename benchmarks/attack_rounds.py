"""What an attack adds to a round: ``python -m benchmarks.attack_rounds [--dataset ml-1m] [--rounds 120]``.

Each attack runs in this process. Its rounds with a malicious user in the cohort and those without one alternate by
chance, so that their medians compare what ran side by side.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from attacks import ATTACKS
from server.simulation import simulate
from settings.options import Scalar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="synthetic")
    parser.add_argument("--rounds", type=int, default=120)
    arguments = parser.parse_args()
    print(f"{'attack':14}{'attacked ms':>14}{'other ms':>12}{'MB attacked':>14}{'MB other':>12}{'attacked rounds':>18}")
    with tempfile.TemporaryDirectory() as folder:
        for attack in ATTACKS:
            measure(attack, arguments.dataset, arguments.rounds, folder)


def measure(attack: str, dataset: str, rounds: int, folder: str) -> None:
    """Print one attack's line: medians of a round's milliseconds and megabytes uploaded."""
    options: dict[str, Scalar] = {
        "attack": attack,
        "target-items": "coldest:1",
        "dataset": dataset,
        "num-server-rounds": rounds,
        "eval-every": rounds,
        "engine": "local",
        "num-nodes": 2,
        "output-dir": folder,
    }
    directory, _ = simulate(options)
    lines = [json.loads(line) for line in Path(directory, "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    attacked, other = ([line for line in lines if bool(line["malicious"]) is flag] for flag in (True, False))
    values = [
        statistics.median(line[name] * scale for line in part) if part else float("nan")
        for name, scale in (("seconds", 1e3), ("bytes_up", 1e-6))
        for part in (attacked, other)
    ]
    print(
        f"{attack:14}{values[0]:14.1f}{values[1]:12.1f}{values[2]:14.2f}{values[3]:12.2f}{len(attacked):18}", flush=True
    )


if __name__ == "__main__":
    main()
