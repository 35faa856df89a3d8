"""What a run says last: its summary in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def closing_lines(summary: Mapping[str, Any]) -> list[str]:
    """The status, the metrics at the best round and over the last evaluations, and whom the rules filtered."""
    lines = [f"{summary['status']} after {_counted(summary['rounds'], 'round')} in {summary['seconds']:.0f} s"]
    best = summary.get("best_round")
    for label, part in ((f"test, best round {best}", "test"), ("test, mean of the last five", "test_last_five")):
        metrics = summary.get(part) or {}
        shown = [f"{name} {value:.4f}" for name, value in metrics.items() if value is not None and _leads(name)]
        if shown:
            lines.append(f"{label}: {', '.join(shown)}")
    for rule, found in (summary.get("detection") or {}).items():
        measures = {"precision": found.get("precision"), "recall": found.get("recall")}
        measures["benign dropped"] = found.get("false_positive_rate")
        told = [f"{name} {value:.3f}" for name, value in measures.items() if value is not None]
        if told:
            lines.append(f"{rule}: {', '.join(told)}")
    return lines


def _leads(name: str) -> bool:
    """Of a metric by rank the one at 5 speaks for the others."""
    return "@" not in name or name.endswith("@5")


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
