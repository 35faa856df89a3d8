"""What adds up over a run, and the summary that is made of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from strategies.detection import Detection, DetectionTally
from strategies.fedrec import RoundOutcome

NUMBERS = (
    "rounds", "seconds", "elapsed", "bytes_up", "bytes_down", "evaluation_up", "evaluation_down", "updates", "failures",
    "skipped",
)  # fmt: skip


@dataclass
class Tally:
    """Time, bytes, rejections, detection, and the evaluations of a run so far.

    ``seconds``: of the rounds; ``elapsed``: of the whole run up to the last checkpoint. ``rejected``: users by
    reason; ``failed``: answers by kind of failure; ``quarantined``: the round in which each such node was caught.
    """

    rounds: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    evaluation_up: int = 0
    evaluation_down: int = 0
    updates: int = 0
    failures: int = 0
    skipped: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    quarantined: dict[str, int] = field(default_factory=dict)
    detection: DetectionTally = field(default_factory=DetectionTally)
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, outcome: RoundOutcome, attackers: np.ndarray, seconds: float) -> None:
        """Count one round; ``attackers``: the users who attacked in it."""
        intake = outcome.intake
        self.rounds += 1
        self.seconds += seconds
        self.bytes_up += intake.num_bytes
        self.bytes_down += outcome.bytes_down
        self.updates += len(intake.losses)
        self.failures += len(intake.failed)
        self.rejected.update(intake.reasons)
        self.failed.update(map(_kind, intake.failed.values()))
        self.quarantined.update({str(node): outcome.server_round for node in outcome.quarantined})
        if outcome.aggregate is None:
            self.skipped += 1
        elif intake.updates is not None:
            examples = intake.updates.num_examples.numpy()
            self.detection.add(outcome.aggregate.verdicts, attackers, examples)

    @property
    def whole(self) -> list[dict[str, Any]]:
        """The evaluations that count: those of as many users as the last one, and more.

        One that a node did not answer is of other users. A node that is gone for good is missing in the last one too.
        """
        fewest = self.evaluations[-1]["of_users"] if self.evaluations else 0
        return [line for line in self.evaluations if line["of_users"] >= fewest]

    def best(self, selection: str) -> dict[str, Any] | None:
        """The evaluation with the highest validation metric, the first of equal ones; ``None`` before the first."""
        return max(self.whole, key=lambda line: line["valid"][selection], default=None)

    def as_state(self) -> dict[str, Any]:
        """Everything but the evaluations, for a checkpoint."""
        return {
            **{name: getattr(self, name) for name in NUMBERS},
            "rejected": self.rejected,
            "failed": self.failed,
            "quarantined": self.quarantined,
            "detection": {rule: asdict(found) for rule, found in self.detection.by_rule.items()},
            "judged": _pairs(self.detection.judged),
            "excluded": _pairs(self.detection.excluded),
        }

    @staticmethod
    def of_state(state: Mapping[str, Any], evaluations: list[dict[str, Any]]) -> Tally:
        """The inverse of ``as_state``."""
        detection = DetectionTally(
            {rule: Detection(**found) for rule, found in state["detection"].items()},
            Counter(dict(state["judged"])),
            Counter(dict(state["excluded"])),
        )
        return Tally(
            **{name: state[name] for name in NUMBERS},
            rejected=Counter(state["rejected"]),
            failed=Counter(state["failed"]),
            quarantined=dict(state["quarantined"]),
            detection=detection,
            evaluations=evaluations,
        )

    def summary(self, selection: str) -> dict[str, Any]:
        """What ``summary.json`` says of the run's results."""
        best = self.best(selection)
        return {
            "rounds": self.rounds,
            "best_round": best["round"] if best else None,
            "valid": best["valid"] if best else None,
            "test": best["test"] if best else None,
            "test_last_five": last_five(self.whole),
            "partial_evaluations": len(self.evaluations) - len(self.whole),
            "detection": {
                rule: {name: finite(value) for name, value in found.measures().items()}
                for rule, found in self.detection.by_rule.items()
            },
            "excluded_by_interactions": [
                {"fewest": bucket.fewest, "most": bucket.most, "rate": finite(bucket.rate)}
                for bucket in self.detection.buckets()
            ],
            "rejected": dict(sorted(self.rejected.items())),
            "failed_answers": self.failures,
            "failures": dict(sorted(self.failed.items())),
            "quarantined": self.quarantined,
            "skipped_rounds": self.skipped,
            "seconds": round(self.elapsed, 3),
            "rounds_per_second": round(self.rounds / self.seconds, 3) if self.seconds else None,
            "bytes": {
                "up": self.bytes_up,
                "down": self.bytes_down,
                "up_per_round": self.bytes_up // max(self.rounds, 1),
                "down_per_round": self.bytes_down // max(self.rounds, 1),
                "up_per_update": self.bytes_up // max(self.updates, 1),
                "down_per_update": self.bytes_down // max(self.updates, 1),
                "evaluation_up": self.evaluation_up,
                "evaluation_down": self.evaluation_down,
            },
        }


def last_five(evaluations: list[dict[str, Any]]) -> dict[str, float] | None:
    """The mean of each test metric over the last five evaluations: steadier than one of them."""
    lines = [line["test"] for line in evaluations[-5:]]
    return {name: math.fsum(line[name] for line in lines) / len(lines) for name in lines[0]} if lines else None


def finite(value: float) -> float | None:
    """JSON has no NaN: a ratio without denominator is null."""
    return value if math.isfinite(value) else None


def _pairs(counts: Counter[int]) -> list[list[int]]:
    """As JSON keeps it, whose keys are texts."""
    return [[number, count] for number, count in sorted(counts.items())]


def _kind(reason: str) -> str:
    # "error 2: ValueError: …" counts as "error", so that no stranger's words become a key.
    kind = reason.partition(":")[0]
    return "error" if kind.startswith("error ") else kind
