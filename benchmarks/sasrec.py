"""A round of SASRec at the clients: the gradients of 50 users of ML-1M, lengths up to 200, dropout 0.2.

    python -m benchmarks.sasrec                   # this machine's threads, and its GPU where there is one
    python -m benchmarks.sasrec --alternatives    # other ways to per-user gradients, on the same cohorts

Prints the median time a round, the arithmetic in it, and which operations the time goes to. Without ML-1M at hand
(``ROBUST_FEDREC_DATA``) histories are drawn with its distribution of lengths, and the first line says so.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import data
from data.interactions import leave_one_out, splits_of
from models.recommenders import dropout, sasrec
from models.recommenders.recommender import CohortGradient
from models.recommenders.sasrec import Shape
from models.recommenders.sasrec_batches import batches
from models.recommenders.sasrec_cohort import Histories, cohort_gradient
from settings.options import OptionError

NUM_USERS = 50
DROPOUT = 0.2
SHAPE = Shape(dim=64, max_length=200, blocks=2)


@dataclass(frozen=True)
class Round:
    """What one round's cohort brings."""

    table: Tensor
    shared: Tensor
    histories: Histories
    keys: Tensor

    @property
    def lengths(self) -> Tensor:
        """(n,) positions that each user trains on."""
        return (self.histories.splits.diff() - 1).clamp(min=0, max=SHAPE.max_length)


Method = Callable[[Round], CohortGradient]


def main() -> None:
    """Measure on the CPU, then on the GPU where there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--max-batch-tokens", type=int, default=4096)
    parser.add_argument("--alternatives", action="store_true")
    parser.add_argument("--device", help="only this one: cpu, cuda")
    options = parser.parse_args()
    found = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in [options.device] if options.device else found:
        tokens = options.max_batch_tokens if device == "cpu" else 1 << 16
        rounds = [_to(item, device) for item in _rounds(options.rounds)]
        print(f"{_machine(device)}; dropout {DROPOUT}, at most {tokens} positions at a time")
        _report_arithmetic(rounds, tokens)
        method = implementation(tokens)
        wall, fastest, busy = (1e3 * seconds for seconds in measure(method, rounds, device))
        print(f"a round: median {wall:.1f} ms, fastest {fastest:.1f} ms, median of the CPU's time {busy:.1f} ms")
        _report_profile(method, rounds, device)
        if options.alternatives:
            from benchmarks.sasrec_alternatives import compare

            compare(rounds, device, tokens)


def implementation(max_batch_tokens: int, probability: float = DROPOUT) -> Method:
    """The project's own way."""

    def method(item: Round) -> CohortGradient:
        return cohort_gradient(
            item.table,
            item.shared,
            SHAPE,
            item.histories,
            probability=probability,
            keys=item.keys,
            max_batch_tokens=max_batch_tokens,
        )

    return method


def measure(method: Method, rounds: list[Round], device: str) -> tuple[float, float, float]:
    """Seconds a round by the clock (a GPU's by CUDA events), median and fastest, and the CPU's time; after warm-up."""
    for item in rounds[:3]:
        method(item)
    wall, busy = [], []
    for item in rounds:
        cpu, clock = time.process_time(), time.perf_counter()
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            method(item)
            end.record()
            torch.cuda.synchronize()
            wall.append(start.elapsed_time(end) / 1e3)
        else:
            method(item)
            wall.append(time.perf_counter() - clock)
        busy.append(time.process_time() - cpu)
    return float(np.median(wall)), min(wall), float(np.median(busy))


def _report_arithmetic(rounds: list[Round], max_batch_tokens: int) -> None:
    """Floating-point operations of the matrix products, forward and backward, of a mean round."""
    real = padded = real_squares = padded_squares = 0
    for item in rounds:
        lengths = item.lengths
        real, real_squares = real + int(lengths.sum()), real_squares + int(lengths.square().sum())
        for batch in batches(lengths.cumsum(0), lengths, SHAPE.max_length, max_batch_tokens):
            users, width = batch.places.shape
            padded, padded_squares = padded + users * width, padded_squares + users * width**2
    d, n = SHAPE.dim, len(rounds)

    def giga(tokens: int, squares: int) -> float:
        # 5 square matrices a position and 2 products a pair of positions; backward costs twice the forward pass.
        return 3 * SHAPE.blocks * (5 * 2 * d * d * tokens + 2 * 2 * d * squares) / n / 1e9

    print(
        f"{real / n:.0f} positions a round, {padded / real - 1:.0%} more are padding; matrix products: "
        f"{giga(real, real_squares):.2f} GFLOP without padding, {giga(padded, padded_squares):.2f} with it"
    )


KINDS = {
    "matrix products": ("bmm", "mm", "baddbmm", "addmm"),
    "normalisation and softmax": (
        "native_layer_norm",
        "native_layer_norm_backward",
        "_softmax",
        "_softmax_backward_data",
    ),
    "random numbers": ("bitwise_right_shift", "bitwise_and_", "bitwise_xor", "bitwise_xor_", "ge", "mul_"),
    "gathering, scattering, copies": (
        *("copy_", "cat", "stack", "index", "index_select", "embedding", "index_add_", "scatter_add_", "fill_"),
        *("_index_put_impl_", "constant_pad_nd", "nonzero", "gather", "sort", "repeat_interleave"),
    ),
    "other arithmetic": ("mul", "add", "add_", "sub", "addcmul", "masked_fill_", "where", "sum", "threshold_backward"),
}
"""The operations that a profile groups; what is in none is views, allocation and autograd's own work."""


def _report_profile(method: Method, rounds: list[Round], device: str) -> None:
    """What the time goes to, by kind of operation, and the operations that take the most by themselves."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities) as profiler:
        for item in rounds:
            method(item)
    times = {event.key: (event.self_cpu_time_total, event.count) for event in profiler.key_averages()}
    if device == "cuda":
        # A kernel's time stands at the operation that started it, and once more at the kernel's own event.
        started = [event for event in profiler.key_averages() if event.device_type.name == "CPU"]
        times = {event.key: (event.self_device_time_total, event.count) for event in started}
    total = sum(spent for spent, _ in times.values()) or 1
    kind_of = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}
    kinds = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for name, (spent, _) in times.items():
        kinds[kind_of.get(name, "the rest")] += spent
    print("share of the time: " + ", ".join(f"{kind} {spent / total:.0%}" for kind, spent in kinds.items()))
    print(f"{'operation':40s} {'calls':>7s} {'share':>6s}")
    for name, (spent, count) in sorted(times.items(), key=lambda entry: -entry[1][0])[:8]:
        print(f"{name[:40]:40s} {count / len(rounds):7.0f} {spent / total:6.1%}")


def _rounds(count: int) -> list[Round]:
    """Rounds of other users each, at a freshly initialised model."""
    splits, items, num_items = _train_items()
    generator = np.random.default_rng(0)
    bound = (6 / (num_items + SHAPE.dim)) ** 0.5
    table = torch.from_numpy(generator.uniform(-bound, bound, (num_items, SHAPE.dim)).astype(np.float32))
    shared = sasrec.initial_shared(SHAPE, generator)
    found = []
    for server_round in range(count):
        users = generator.choice(len(splits) - 1, NUM_USERS, replace=False)
        own = torch.from_numpy(np.concatenate([items[splits[user] : splits[user + 1]] for user in users]))
        negatives = torch.from_numpy(generator.integers(0, num_items, len(own)))
        histories = Histories(torch.from_numpy(splits_of(np.diff(splits)[users])), own, own, negatives)
        found.append(Round(table, shared, histories, dropout.user_keys(0, server_round, users)))
    return found


def _train_items() -> tuple[np.ndarray, np.ndarray, int]:
    """Splits and items of ML-1M's training part, or of histories as long as these."""
    try:
        if not os.environ.get("ROBUST_FEDREC_DATA"):
            raise OptionError("ROBUST_FEDREC_DATA is not set.")
        split = leave_one_out(data.load("ml-1m"))
        return split.train_splits, split.train_items.astype(np.int64), split.num_items
    except OptionError as error:
        print(f"Random histories with ML-1M's distribution of lengths: {error}")
    generator = np.random.default_rng(1)
    lengths = np.clip(generator.lognormal(4.56, 0.95, 6040), 18, 2300).astype(np.int64)
    return splits_of(lengths), generator.integers(0, 3706, lengths.sum()), 3706


def _to(item: Round, device: str) -> Round:
    histories = item.histories
    moved = Histories(
        histories.splits.to(device),
        histories.items.to(device),
        histories.positives.to(device),
        histories.negatives.to(device),
    )
    return Round(item.table.to(device), item.shared.to(device), moved, item.keys.to(device))


def _machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
