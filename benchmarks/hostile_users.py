"""What users do who lie about their weight, or send huge values once: ``python -m benchmarks.hostile_users``.

``--lie 1000000``: one in a hundred users claims so many examples, and sends the way to a random permutation of the item
table in every row. ``--huge 5``: in round 60 so many users send 10⁹ in every row. Prints the test HR@5.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.view import AttackerView
from protocol.admission import LARGEST_VALUE
from protocol.updates import Updates, splits_of
from server.simulation import simulate
from settings.options import Scalar

LENGTH = 0.1
"""Of a permuting update: what the paper's NormBound lets pass."""

POISONED_ROUND = 60


@dataclass(frozen=True)
class LiarOptions:
    """``examples``: what each user claims; 0: what it has."""

    examples: int = 0


class Liar(Attack):
    """Pulls each item to another one's place, with a weight that is a lie."""

    prefix = "liar"
    Options = LiarOptions
    options: LiarOptions

    def poison(self, view: AttackerView) -> Updates:
        """The same update from everybody."""
        table, claim = view.model.items, self.options.examples
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(1))
        way = table - table[order]
        poisoned = in_every_row(view.honest, (way / way.norm() * LENGTH).repeat(len(view.honest), 1))
        return replace(poisoned, num_examples=torch.full_like(poisoned.num_examples, claim)) if claim else poisoned


@dataclass(frozen=True)
class HugeOptions:
    """``users``: how many of the malicious users send huge values; the others are honest."""

    users: int = 1


class Huge(Attack):
    """Sends the largest values that are admitted."""

    prefix = "huge"
    Options = HugeOptions
    options: HugeOptions

    def poison(self, view: AttackerView) -> Updates:
        """Signs at random, for the first users."""
        honest, count = view.honest, self.options.users
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (len(honest) * len(view.model.items), honest.dim), generator=generator) * 2 - 1
        huge = in_every_row(honest, signs * LARGEST_VALUE)
        return joined(
            huge.select(torch.arange(min(count, len(honest)))), honest.select(torch.arange(len(honest))[count:])
        )


def in_every_row(honest: Updates, rows: Tensor) -> Updates:
    """The users' updates with these rows (n · num_items, d) for all items."""
    count = len(honest)
    num_items = len(rows) // count
    splits = torch.arange(count + 1) * num_items
    return replace(honest, row_splits=splits, items=torch.arange(num_items).repeat(count), rows=rows.float())


def joined(first: Updates, second: Updates) -> Updates:
    """The users of both, in order."""
    names = ("users", "num_examples", "items", "rows", "shared", "l2_share")
    columns = {name: torch.cat([getattr(first, name), getattr(second, name)]) for name in names}
    return Updates(row_splits=splits_of(torch.cat([first.row_counts, second.row_counts])), **columns)


def hit_ratio(options: dict[str, Scalar]) -> tuple[float, int]:
    """The test HR@5 after the last round, and how many users had their values lowered in the run."""
    with tempfile.TemporaryDirectory() as folder:
        fixed: dict[str, Scalar] = {"engine": "local", "num-nodes": 2, "tracker": "none", "checkpoint-every": 0}
        rounds = options["num-server-rounds"]
        directory, summary = simulate({**fixed, "eval-every": rounds, "output-dir": folder, **options})
        lines = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    return summary["test"]["hr@5"], sum(line["bounded"]["values"] for line in lines if line["bounded"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--defenses", nargs="*", default=["norm-bound"])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--lie", type=int, help="examples that each malicious user claims; 0: what it has")
    parser.add_argument("--huge", type=int, help="users who send 10⁹ in round 60; 0: nobody")
    parser.add_argument("--weight-bounds", type=float, nargs="*", default=[2.0])
    parser.add_argument("--value-bound", type=float, default=24.0)
    arguments = parser.parse_args()
    attack: dict[str, Scalar] = {"malicious-fraction": 0.0}
    if arguments.lie is not None:
        plugin = f"liar-examples={arguments.lie}"
        attack = {"attack": f"{__spec__.name}:Liar", "plugin-options": plugin, "malicious-fraction": 0.01}
    if arguments.huge is not None:
        # One in five is malicious, so that there are enough in the round; but for it they are honest.
        attack = {"malicious-fraction": 0.2}
    if arguments.huge:
        only = {"attack-start": POISONED_ROUND, "attack-stop": POISONED_ROUND}
        attack |= {"attack": f"{__spec__.name}:Huge", "plugin-options": f"huge-users={arguments.huge}", **only}
    for defense in arguments.defenses:
        for bound in arguments.weight_bounds:
            options: dict[str, Scalar] = {"dataset": arguments.dataset, "defense": defense, "mean-weight-bound": bound}
            options |= {"value-bound": arguments.value_bound, "num-server-rounds": arguments.rounds, **attack}
            found = [hit_ratio({**options, "seed": seed}) for seed in arguments.seeds]
            ratios = "  ".join(f"{ratio:.4f}" for ratio, _ in found)
            lowered = sum(count for _, count in found)
            print(f"{defense:24} weight bound {bound:4g}  HR@5 {ratios}  users lowered {lowered}", flush=True)


if __name__ == "__main__":
    main()
