"""What adds up over a run, and the summary that is made of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from metrics.metric import Selection
from server.outcome import Counted, RoundOutcome
from strategies.detection import Detection, DetectionTally

NUMBERS = (
    "rounds", "seconds", "elapsed", "bytes_up", "bytes_down", "evaluation_up", "evaluation_down", "updates", "failures",
    "skipped", "attacked_rounds", "carried_out",
)  # fmt: skip

EVALUATED = ("round", "valid", "test", "of_users")
"""What a tally keeps of an evaluation's line."""


@dataclass(frozen=True)
class Tally:
    """Time, bytes, rejections, detection, and the evaluations of a run so far.

    ``seconds``: of the rounds; ``elapsed``: of the whole run up to the last checkpoint. ``rejected``: users by
    reason; ``failed``: answers by kind of failure; ``why_skipped``: the reason of the last skipped round;
    ``attacked_rounds``: those in which attackers were asked, ``carried_out``: those of them in which all of these
    attackers' updates came in; ``evaluations``: of each its round, its metrics and their users.
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
    why_skipped: str = ""
    attacked_rounds: int = 0
    carried_out: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    detection: DetectionTally = field(default_factory=DetectionTally)
    evaluations: tuple[Mapping[str, Any], ...] = ()

    def plus(self, outcome: RoundOutcome) -> Tally:
        """Count one more round."""
        intake, aggregate, detection = outcome.intake, outcome.aggregate, self.detection
        if intake.updates is not None:
            detection = detection.plus(outcome.verdicts, outcome.attackers, intake.updates.num_examples.numpy())
        return replace(
            self,
            rounds=self.rounds + 1,
            seconds=self.seconds + outcome.seconds,
            bytes_up=self.bytes_up + intake.num_bytes,
            bytes_down=self.bytes_down + outcome.bytes_down,
            updates=self.updates + len(intake.losses),
            failures=self.failures + len(intake.failed),
            skipped=self.skipped + (aggregate is None),
            why_skipped=outcome.skipped or self.why_skipped,
            attacked_rounds=self.attacked_rounds + (outcome.attackers_asked > 0),
            carried_out=self.carried_out + (0 < outcome.attackers_asked <= outcome.attackers_came),
            rejected=_sum(self.rejected, intake.reasons),
            failed=_sum(self.failed, Counter(map(_kind, intake.failed.values()))),
            detection=detection,
        )

    def evaluated(self, line: Mapping[str, Any], counted: Counted) -> Tally:
        """Count one more evaluation, which has this line in ``metrics.jsonl``."""
        return replace(
            self,
            failures=self.failures + len(counted.failed),
            failed=_sum(self.failed, Counter(map(_kind, counted.failed.values()))),
            evaluation_down=self.evaluation_down + counted.bytes_down,
            evaluation_up=self.evaluation_up + counted.bytes_up,
            evaluations=(*self.evaluations, {name: line.get(name) for name in EVALUATED}),
        )

    def known(self, selection: Selection) -> list[Mapping[str, Any]]:
        """The evaluations in which the metric that selects the best round has a value: somebody was counted."""
        return [line for line in self.evaluations if selection.value(line) is not None]

    def comparable(self, selection: Selection) -> list[Mapping[str, Any]]:
        """The evaluations that count: of those that are known the ones of as many users as the last one, and more.

        One that a node did not answer is of other users. A node that is gone for good is missing in the last one too.
        """
        known = self.known(selection)
        return [line for line in known if line["of_users"] >= known[-1]["of_users"]]

    def best(self, selection: Selection) -> Mapping[str, Any] | None:
        """The evaluation that is best on validation, the first of equal ones; ``None`` before the first."""
        return selection.best(self.comparable(selection))

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            **{name: getattr(self, name) for name in NUMBERS},
            "why_skipped": self.why_skipped,
            "rejected": dict(self.rejected),
            "failed": dict(self.failed),
            "detection": {rule: asdict(found) for rule, found in self.detection.by_rule.items()},
            "judged": _pairs(self.detection.judged),
            "excluded": _pairs(self.detection.excluded),
            "evaluations": list(self.evaluations),
        }

    @staticmethod
    def of_json(found: Mapping[str, Any]) -> Tally:
        """The inverse of ``as_json``."""
        detection = DetectionTally(
            {rule: Detection(**sums) for rule, sums in found["detection"].items()},
            dict(found["judged"]),
            dict(found["excluded"]),
        )
        return Tally(
            **{name: found[name] for name in NUMBERS},
            why_skipped=found["why_skipped"],
            rejected=dict(found["rejected"]),
            failed=dict(found["failed"]),
            detection=detection,
            evaluations=tuple(found["evaluations"]),
        )

    def summary(self, selection: Selection) -> dict[str, Any]:
        """What ``summary.json`` says of the run's results."""
        best, known, comparable = self.best(selection), self.known(selection), self.comparable(selection)
        return {
            "rounds": self.rounds,
            "best_round": best["round"] if best else None,
            "valid": best["valid"] if best else None,
            "test": best["test"] if best else None,
            "test_last_five": last_five(comparable),
            "partial_evaluations": len(known) - len(comparable),
            "unknown_evaluations": len(self.evaluations) - len(known),
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
            "skipped_rounds": self.skipped,
            "attacked_rounds": self.attacked_rounds,
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


def last_five(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, float | None] | None:
    """The mean of each test metric over the last five evaluations: steadier than one of them.

    A metric that is unknown in one of them has no mean.
    """
    lines = [line["test"] for line in evaluations[-5:]]
    return {name: _mean([line.get(name) for line in lines]) for name in lines[-1]} if lines else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def finite(value: float) -> float | None:
    """JSON has no NaN: a ratio without denominator is null."""
    return value if math.isfinite(value) else None


def _sum(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(counts) + Counter(more))


def _pairs(counts: Mapping[int, int]) -> list[list[int]]:
    """As JSON keeps it, whose keys are texts."""
    return [[number, count] for number, count in sorted(counts.items())]


def _kind(reason: str) -> str:
    # "error 2: ValueError: …" counts as "error", so that no stranger's words become a key.
    kind = reason.partition(":")[0]
    return "error" if kind.startswith("error ") else kind
