"""What it is all about, in three runs on the embedded data set: honest, attacked, and attacked but defended."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.runner.cell import Cell, cell
from experiments.runner.grid_progress import GridProgress
from experiments.runner.pool import default_jobs, run_cells
from server.results.progress import clock

ROUNDS = 600
MALICIOUS_FRACTION = 0.05
LAST = 5
FILTERED = {"caught": "recall", "precision": "precision", "wrongly": "false_positive_rate"}


@dataclass(frozen=True)
class Run:
    """One line of the demo's table; ``weight``: how long it takes beside the others."""

    title: str
    attack: str
    defense: str
    weight: float


RUNS = (
    Run("no attack", "none", "none", 1.0),
    Run("ClusterAttack", "cluster", "none", 1.5),
    Run("the same against UNION + NormBound", "cluster", "union+norm-bound", 3.5),
)


def demo_cell(run: Run, rounds: int, seed: int) -> Cell:
    """The run's options: all three have the same users, negatives and cohorts."""
    return cell(
        {
            "dataset": "synthetic",
            "attack": run.attack,
            "defense": run.defense,
            "malicious-fraction": MALICIOUS_FRACTION,
            "num-server-rounds": rounds,
            "eval-every": max(1, rounds // 12),
            "seed": seed,
        }
    )


def demo(output: Path, rounds: int = ROUNDS, seed: int = 0, engine: str = "local") -> int:
    """Run the three, print their table; returns the exit status."""
    console = Console()
    started = time.monotonic()
    runs = output.absolute() / time.strftime("demo-%Y%m%d-%H%M%S")
    cells = {demo_cell(run, rounds, seed): run for run in RUNS}
    users = f"{MALICIOUS_FRACTION:.0%} of the users"
    console.print(
        f"Three trainings of {rounds} rounds on the embedded data set; {users} are malicious where there are any."
    )
    # The longest first, so that the cores are busy to the end.
    order = sorted(cells, key=lambda one: -cells[one].weight)
    jobs = default_jobs() if engine == "local" else 1
    where = {"engine": engine, "num-nodes": 1 if engine == "local" else 0}
    expected = {one: run.weight * rounds * 0.02 for one, run in cells.items()}
    labels = {one: run.title for one, run in cells.items()}
    with GridProgress(order, expected, jobs, console, labels) as progress:
        problems = run_cells(order, runs, jobs, progress, where)
    if problems:
        return 1
    summaries = {run: json.loads((runs / one.name / "summary.json").read_text()) for one, run in cells.items()}
    console.print(table(summaries))
    console.print(explanation(max(1, rounds // 12), seed), highlight=False)
    console.print(f"{clock(time.monotonic() - started)} in all. Results: {runs}", highlight=False, soft_wrap=True)
    return 0


def table(summaries: dict[Run, dict[str, Any]]) -> Table:
    """The three runs, one a line."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    made.add_column("")
    for column in ("HR@5", "NDCG@5", *FILTERED, "s"):
        made.add_column(column, justify="right")
    honest = next(iter(summaries.values()))["test_last_five"]
    for run, summary in summaries.items():
        means = summary["test_last_five"]
        cells = [run.title]
        for metric in ("hr@5", "ndcg@5"):
            against = "" if means is honest else change(means[metric], honest[metric])
            cells += [f"{means[metric]:.4f} {against:>4}"]
        made.add_row(*cells, *filtered(summary["detection"]), f"{summary['seconds']:.0f}")
    return made


def change(value: float, reference: float) -> str:
    """In percent of the reference."""
    return f"{value / reference - 1:+.0%}" if reference else "—"


def filtered(detection: dict[str, dict[str, float | None]]) -> list[str]:
    """How well UNION told malicious from benign updates, in the order of ``FILTERED``."""
    found = detection.get("union", {})
    values = (found.get(name) for name in FILTERED.values())
    return ["" if value is None else f"{value:.0%}" for value in values]


def explanation(every: int, seed: int) -> str:
    """What stands under the table."""
    return (
        f"HR@5, NDCG@5: mean of the last {LAST} evaluations (one every {every} rounds) over the users malicious in "
        f"none of the runs, with the change against the first line; seed {seed} in all three. caught: the malicious "
        "updates that UNION dropped (recall); precision: the malicious among the dropped; wrongly: the benign ones "
        "that it dropped. UNION's clients train a contrastive task too, which helps by itself on so small a data "
        "set: so the defended model may pass the one that nobody attacked."
    )
