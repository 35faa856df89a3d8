"""What fewer bytes cost: ``python -m benchmarks.communication [--part uploads|underflow …]``.

``uploads``: test HR@5 and NDCG@5 of the same runs with each ``upload-dtype``; ``underflow``: what of the honest
gradients each kind rounds to nothing or coarsely.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from typing import Any
from unittest.mock import patch

import torch

from protocol.upload_dtype import KINDS, narrowed, widened
from server.round import train_round
from server.simulation import simulate

PARTS = ("uploads", "underflow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--dataset", default="synthetic")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir", default=os.environ.get("ROBUST_FEDREC_DATA", ""))
    arguments = parser.parse_args()
    common = {
        "dataset": arguments.dataset,
        "data-dir": arguments.data_dir,
        "num-server-rounds": arguments.rounds,
        "eval-every": arguments.rounds,
        "engine": "local",
        "num-nodes": 1,
        "checkpoint-every": 0,
        "tracker": "none",
    }
    for part in arguments.part or PARTS:
        {"uploads": uploads, "underflow": underflow}[part](common, range(arguments.seeds))


def uploads(common: dict[str, Any], seeds: range) -> None:
    """Print a line for each kind: metrics over the seeds, and bytes."""
    print(f"\n{'uploads':10}{'HR@5':>9}{'±':>9}{'NDCG@5':>9}{'±':>9}{'KiB an update':>15}")
    for kind in KINDS:
        found = [_run({**common, "upload-dtype": kind, "seed": seed}) for seed in seeds]
        values = []
        for metric in ("hr@5", "ndcg@5"):
            of_seeds = [summary["test"][metric] for summary in found]
            values += [statistics.fmean(of_seeds), statistics.stdev(of_seeds) if len(of_seeds) > 1 else 0.0]
        size = found[0]["bytes"]["up_per_update"] / 1024
        print(f"{kind:10}" + "".join(f"{value:9.4f}" for value in values) + f"{size:15.1f}", flush=True)


def underflow(common: dict[str, Any], seeds: range) -> None:
    """Print what rounding does to the values of the first and of the last rounds' honest updates."""
    rows: list[torch.Tensor] = []

    def watch(*arguments: Any) -> Any:
        after, outcome = train_round(*arguments)
        if outcome.intake.updates is not None:
            rows.append(outcome.intake.updates.rows.flatten())
        return after, outcome

    with patch("server.strategy.train_round", watch):
        _run({**common, "seed": seeds[0]})
    print(f"\n{'values of':16}{'median':>10}{'1 %':>10}", end="")
    print("".join(f"{kind + ' to 0':>16}{'off by > 1 %':>14}" for kind in list(KINDS)[1:]))
    few = max(1, len(rows) // 10)
    for name, part in (("first rounds", rows[:few]), ("last rounds", rows[-few:])):
        values = torch.cat(part)
        values = values[values != 0]
        sizes = values.abs().sort().values
        line = f"{name:16}{float(sizes[len(sizes) // 2]):10.1e}{float(sizes[len(sizes) // 100]):10.1e}"
        for kind in ("float16", "bfloat16"):
            got = widened(narrowed(values, kind), kind)
            nothing = float((got == 0).float().mean())
            coarse = float(((got - values).abs() > 0.01 * values.abs()).float().mean())
            line += f"{nothing:16.4%}{coarse:14.2%}"
        print(line)


def _run(options: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return simulate({**options, "output-dir": folder})[1]


if __name__ == "__main__":
    main()
