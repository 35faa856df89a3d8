"""Server milliseconds of every defense on cohorts shaped like real ones: ``python -m benchmarks.rules``.

Each repetition runs every defense once, so that ratios to the plain mean compare what ran side by side.
``--byzfl`` measures the rules that ByzFL has too beside ByzFL's, on dense updates. Imports neither flwr nor ray.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import fields, replace
from types import ModuleType

import numpy as np
import torch

from benchmarks.byzfl import MISSING, aggregators
from benchmarks.cohorts import cohort, table
from protocol.updates import Gradient, Updates, make_updates
from strategies.chain import compose
from strategies.rule import Rule, ServerView
from strategies.server_model import ServerModel
from strategies.sparse.side_by_side import use_threads

Clock = Callable[[], float]

MALICIOUS_FRACTION = 0.05
DEFENSES = {
    "mean": None,
    "norm-bound": 60,
    "krum": 60,
    "multi-krum": 60,
    "bulyan": 60,
    "union": 60,
    "support-bound": 60,
    "trimmed-mean": 150,
    "median": 150,
    "per-item-trimmed-mean": 150,
    "per-item-median": 150,
    "per-item-krum": 150,
    "geometric-median": 60,
    "centered-clipping": 60,
    "meamed": 60,
    "nnm": 60,
    "nnm+trimmed-mean": 60,
    "nnm+multi-krum": 60,
    "bucketing": 60,
    "dnc": 60,
    "flame": 60,
    "fools-gold": 60,
    "sign-guard": 60,
    "hics": 60,
    "popularity-separation": 60,
    "union+norm-bound": None,
    "union+multi-krum": None,
}
"""Every defense and the milliseconds it may take on two cores with ML-1M; ``None``: there is no bar."""

COHORTS = {
    "ml-1m": {"num_items": 3706, "mean_examples": 163.0, "negatives": 1},
    "ml-1m, contrastive": {"num_items": 3706, "mean_examples": 163.0, "negatives": 16},
    "gowalla": {"num_items": 40981, "mean_examples": 51.0, "negatives": 1},
}
OPTIONS = {"support-bound-rows-per-example": 17.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of all cores together, on a busy machine")
    parser.add_argument("--byzfl", action="store_true", help="beside ByzFL's rules on dense matrices, one thread each")
    arguments = parser.parse_args()
    if arguments.byzfl:
        beside_byzfl(arguments.repeats)
        return
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    threads = torch.get_num_threads()
    # As in a run: whole pieces of a rule's work on each core.
    use_threads(threads)
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} threads"
    print(f"torch {torch.__version__}, {where}, {arguments.users} users a round, {arguments.repeats} repetitions")
    for name, shape in COHORTS.items():
        # One attacker in a hundred users, as in the paper's main table.
        updates = cohort(arguments.users, malicious=max(arguments.users // 100, 1), **shape)  # type: ignore[arg-type]
        model = trained_model(int(shape["num_items"]))
        measure(name, on(updates, device), model_on(model, device), arguments.repeats, clock)


def measure(name: str, updates: Updates, model: ServerModel, repeats: int, clock: Clock) -> None:
    """Print the medians and the smallest times of all defenses on one cohort, and their ratios to the mean."""
    touched = len(updates.items) / (len(updates) * len(model.items))
    print(f"\n{name}: {len(model.items)} items, {touched:.1%} of them touched by a user on average")
    print(f"{'defense':24}{'median ms':>11}{'least ms':>11}{'× mean':>9}{'bar ms':>9}")
    rules = {defense: compose(defense, OPTIONS, len(updates), MALICIOUS_FRACTION) for defense in DEFENSES}
    seconds: dict[str, list[float]] = {defense: [] for defense in rules}
    for repetition in range(repeats + 2):
        for defense, rule in rules.items():
            elapsed = timed(rule, updates, model, clock)
            if repetition >= 2:
                seconds[defense].append(elapsed)
    for defense, times in seconds.items():
        ratio = statistics.median(mine / plain for mine, plain in zip(times, seconds["mean"], strict=True))
        bar = DEFENSES[defense] if name.startswith("ml-1m") else None
        milliseconds = statistics.median(times) * 1e3, min(times) * 1e3
        print(f"{defense:24}{milliseconds[0]:11.1f}{milliseconds[1]:11.1f}{ratio:9.1f}{bar or '':>9}")


DENSE = ((64, 65_536), (80, 65_536))
"""Clients and coordinates of the dense matrices."""


def beside_byzfl(repeats: int) -> None:
    """Print the medians of both, and the median of the ratios within a repetition, on 32-bit torch tensors."""
    module = aggregators()
    if module is None:
        print(MISSING)
        return
    torch.set_num_threads(1)
    for n, width in DENSE:
        matrix = torch.randn(n, width, generator=torch.Generator().manual_seed(0))
        f = n // 10
        theirs = byzfl_rules(module, f)
        options = {"centered-clipping-threshold": 200.0, "geometric-median-smoothing": 0.1}
        updates, model = dense_updates(matrix)
        print(f"\n{n} dense updates of {width} coordinates, f = {f}, one thread, {repeats} repetitions")
        print(f"{'rule':24}{'ours ms':>11}{'ByzFL ms':>11}{'ours / ByzFL':>14}")
        for name, combine in theirs.items():
            rule = compose(name, options, n, f / n)
            pairs = []
            for _ in range(repeats + 1):
                copied = matrix.clone()
                start = time.perf_counter()
                combine(copied)
                other = time.perf_counter() - start
                pairs.append((timed(rule, updates, model, time.perf_counter), other))
            ours, byzfl = zip(*pairs[1:], strict=True)
            ratio = statistics.median(mine / other for mine, other in pairs[1:])
            print(f"{name:24}{statistics.median(ours) * 1e3:11.1f}{statistics.median(byzfl) * 1e3:11.1f}{ratio:14.2f}")


def byzfl_rules(module: ModuleType, f: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """ByzFL's aggregators under the names of the rules here."""
    return {
        "trimmed-mean": module.TrMean(f),
        "median": module.Median(),
        "krum": module.Krum(f),
        "multi-krum": module.MultiKrum(f),
        "geometric-median": module.GeometricMedian(0.1, 3),
        "centered-clipping": module.CenteredClipping(L=3, tau=200.0),
        "meamed": module.Meamed(f),
        "nnm": lambda rows: module.NNM(f)(rows).mean(0),
        "nnm+trimmed-mean": lambda rows: module.TrMean(f)(module.NNM(f)(rows)),
        "nnm+multi-krum": lambda rows: module.MultiKrum(f)(module.NNM(f)(rows)),
        "bucketing+median": lambda rows: module.Median()(module.Bucketing(2)(rows)),
    }


def dense_updates(matrix: torch.Tensor, dim: int = 64) -> tuple[Updates, ServerModel]:
    """Updates that send every row of a table with so many columns, and a model of that size."""
    n, num_items = len(matrix), matrix.shape[1] // dim
    updates = make_updates(
        users=torch.arange(n),
        num_examples=torch.ones(n, dtype=torch.int64),
        row_splits=torch.arange(n + 1) * num_items,
        items=torch.arange(num_items).repeat(n),
        rows=matrix.reshape(n * num_items, dim),
    )
    items = torch.zeros(num_items, dim)
    return updates, ServerModel.start(items, items.new_zeros(0), learning_rate=1.0, weight_decay=0.0)


def timed(rule: Rule, updates: Updates, model: ServerModel, clock: Clock) -> float:
    """Seconds of one aggregation."""
    view = ServerView(1, model, len(updates), np.random.default_rng(0))
    start = clock()
    rule.aggregate(updates, view)
    if updates.rows.is_cuda:
        torch.cuda.synchronize(updates.rows.device)
    return clock() - start


def trained_model(num_items: int, rounds: int = 20) -> ServerModel:
    """A model whose optimizer has seen a few gradients."""
    items = table(num_items)
    model = ServerModel.start(items, items.new_zeros(0), learning_rate=2e-3, weight_decay=1e-5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        model = model.step(Gradient(torch.randn(items.shape, generator=generator) * 1e-3, model.shared))
    return model


def on(updates: Updates, device: torch.device) -> Updates:
    """The updates on another device."""
    return replace(updates, **{field.name: getattr(updates, field.name).to(device) for field in fields(updates)})


def model_on(model: ServerModel, device: torch.device) -> ServerModel:
    """The model on another device."""
    moments = replace(
        model.items_moments, first=model.items_moments.first.to(device), second=model.items_moments.second.to(device)
    )
    empty = replace(
        model.shared_moments, first=model.shared_moments.first.to(device), second=model.shared_moments.second.to(device)
    )
    return replace(
        model,
        items=model.items.to(device),
        shared=model.shared.to(device),
        items_moments=moments,
        shared_moments=empty,
    )


if __name__ == "__main__":
    main()
