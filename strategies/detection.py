"""How well a rule tells malicious users from benign ones, and whom it wrongly excludes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from strategies.rule import Verdict

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Detection:
    """Counts over the users that a rule saw; a malicious user who is dropped is a true positive.

    ``pairs``: pairs of a malicious and a benign user of the same round; ``won``: those in which the malicious
    one has the higher score, ties counting half. Rounds add up by ``+``. A ratio without denominator is NaN.
    """

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    true_negatives: int = 0
    won: float = 0.0
    pairs: int = 0

    @property
    def precision(self) -> float:
        """The share of malicious users among the dropped."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """The share of dropped users among the malicious."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def false_positive_rate(self) -> float:
        """The share of dropped users among the benign."""
        return _ratio(self.false_positives, self.false_positives + self.true_negatives)

    @property
    def auc(self) -> float:
        """The probability that a malicious user has a higher score than a benign one of the same round."""
        return _ratio(self.won, self.pairs)

    def __add__(self, other: Detection) -> Detection:
        return Detection(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
            self.true_negatives + other.true_negatives,
            self.won + other.won,
            self.pairs + other.pairs,
        )

    def measures(self) -> dict[str, float]:
        """The four measures by name."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "false_positive_rate": self.false_positive_rate,
            "auc": self.auc,
        }


def detect(verdict: Verdict, malicious: Ints) -> Detection:
    """What one verdict found of the malicious users (any number of ids, (k,) int64)."""
    guilty = np.isin(verdict.users.cpu().numpy(), malicious)
    dropped = ~verdict.kept.cpu().numpy()
    won, pairs = won_pairs(verdict.scores.cpu().numpy().astype(np.float64), guilty)
    return Detection(
        true_positives=int((guilty & dropped).sum()),
        false_positives=int((~guilty & dropped).sum()),
        false_negatives=int((guilty & ~dropped).sum()),
        true_negatives=int((~guilty & ~dropped).sum()),
        won=won,
        pairs=pairs,
    )


def won_pairs(scores: Floats, guilty: Bools) -> tuple[float, int]:
    """How many pairs (malicious, benign) the malicious user wins by score, ties half, and how many there are."""
    benign = np.sort(scores[~guilty])
    below = np.searchsorted(benign, scores[guilty], side="left")
    not_above = np.searchsorted(benign, scores[guilty], side="right")
    return float((below + not_above).sum()) / 2, int(guilty.sum()) * len(benign)


def chain_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict on the users that the outermost rule saw, with its scores; who is dropped by any rule is dropped."""
    first = verdicts[0]
    users = first.users.cpu().numpy()
    dropped = np.zeros(len(users), dtype=bool)
    for verdict in verdicts:
        dropped |= np.isin(users, verdict.users[~verdict.kept].cpu().numpy())
    kept = first.kept.new_tensor(~dropped)
    return Verdict("+".join(verdict.rule for verdict in verdicts), first.users, first.scores, kept, {})


@dataclass(frozen=True)
class ExclusionBucket:
    """Benign users with ``fewest`` to ``most`` interactions: how often they were judged, and how often dropped."""

    fewest: int
    most: int
    judged: int
    excluded: int

    @property
    def rate(self) -> float:
        """The share of judgements in which a benign user was dropped."""
        return _ratio(self.excluded, self.judged)


@dataclass(frozen=True)
class DetectionTally:
    """Detection over a run.

    ``by_rule`` sums the rounds for each rule, and, where rules are chained, for the chain. ``judged``, ``excluded``:
    benign updates by number of interactions, all of them and those that were dropped.
    """

    by_rule: Mapping[str, Detection] = field(default_factory=dict)
    judged: Mapping[int, int] = field(default_factory=dict)
    excluded: Mapping[int, int] = field(default_factory=dict)

    def plus(self, verdicts: Sequence[Verdict], malicious: Ints, num_examples: Ints) -> DetectionTally:
        """Count one more round.

        ``malicious`` (k,): ids of malicious users; ``num_examples`` (n,): interactions of the users of the outermost
        verdict, in its order.
        """
        if not verdicts:
            return self
        chain = chain_verdict(verdicts)
        found = {verdict.rule: detect(verdict, malicious) for verdict in (*verdicts, chain)}
        sums = {rule: self.by_rule.get(rule, Detection()) + detection for rule, detection in found.items()}
        benign = ~np.isin(chain.users.cpu().numpy(), malicious)
        dropped = ~chain.kept.cpu().numpy()
        return DetectionTally(
            {**self.by_rule, **sums},
            _counted(self.judged, num_examples[benign].tolist()),
            _counted(self.excluded, num_examples[benign & dropped].tolist()),
        )

    def buckets(self, count: int = 5) -> list[ExclusionBucket]:
        """Wrongly excluded users by number of interactions, in up to ``count`` buckets of about equally many judged."""
        if not self.judged:
            return []
        present = np.array(sorted(self.judged), dtype=np.int64)
        judged, excluded = (
            np.array([counts.get(number, 0) for number in present.tolist()], dtype=np.int64)
            for counts in (self.judged, self.excluded)
        )
        share = judged.cumsum() / judged.sum()
        # A bucket ends where the share of judged users passes a multiple of 1/count.
        bucket = np.minimum(np.ceil(share * count - 1e-9).astype(np.int64), count)
        made = []
        for number in np.unique(bucket):
            inside = bucket == number
            ends = present[inside]
            made.append(
                ExclusionBucket(int(ends[0]), int(ends[-1]), int(judged[inside].sum()), int(excluded[inside].sum()))
            )
        return made


def _counted(counts: Mapping[int, int], values: Iterable[int]) -> dict[int, int]:
    """The counts with one more of each of the values."""
    # Hundreds of numbers are counted in a run, and a round adds a few dozen: a Counter's sum visits all of them.
    more = dict(counts)
    for value in values:
        more[value] = more.get(value, 0) + 1
    return more


def _ratio(part: float, total: float) -> float:
    return part / total if total else math.nan
