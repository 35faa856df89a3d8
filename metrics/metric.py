"""What a metric is: whole numbers that nodes count and the server adds up, and the named numbers made of the totals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from metrics.ranked import Ranked


class Metric(ABC):
    """One metric of an evaluation; nodes and the server make it from the same code and options.

    ``name``: of its counts in a reply. ``names``: of the numbers that come out, for the part ``valid`` and for the part
    ``test``; none may be another metric's. ``per_user``: how much one user adds to the sum of the counts at most, or to
    each of ``parts`` equal parts of them, as of several targets; a reply with more is refused. ``selects``: which of
    ``names`` selects the best round on ``valid``, "" for none, and ``more_is_better``: whether the best round has the
    highest value of it. ``shown``: which of ``names`` the progress line has.
    """

    name: str
    names: tuple[str, ...]
    per_user: int = 1
    parts: int = 1
    selects: str = ""
    more_is_better: bool = True
    shown: tuple[str, ...] = ()

    @abstractmethod
    def length(self, num_items: int) -> int:
        """How many counts there are, for a data set of so many items."""

    @abstractmethod
    def count(self, ranked: Ranked) -> Tensor:
        """(length,) int64, none negative: what these users add to the counts.

        Each user must add at least 1 to some count: totals that are all 0 mean that nobody was counted. All that
        a node uploads of an evaluation is the sum over its users.
        """

    @abstractmethod
    def values(self, totals: Sequence[int]) -> Mapping[str, float | None]:
        """The numbers of ``names`` out of all users' counts, which are not all 0; ``None`` where one is unknown."""


@dataclass(frozen=True)
class CountLimits:
    """What a metric's ``length`` counts in a reply may be: in each of ``parts`` parts at most ``per_user`` a user."""

    length: int
    per_user: int = 1
    parts: int = 1


@dataclass(frozen=True)
class Selection:
    """The number on ``valid`` that selects the best round: the highest, or else the lowest; "" where there is none."""

    name: str = ""
    more_is_better: bool = True

    def value(self, evaluation: Mapping[str, Any]) -> float | None:
        """Its value in an evaluation's line, ``None`` where it is unknown."""
        found: float | None = (evaluation["valid"] or {}).get(self.name)
        return found

    def best(self, evaluations: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """The best of these evaluations, the first of equal ones; all of them must have a value."""
        sign = 1.0 if self.more_is_better else -1.0
        return max(evaluations, key=lambda line: sign * line["valid"][self.name], default=None)


def selection_of(metrics: Iterable[Metric]) -> Selection:
    """What the first of these metrics that selects a round selects it by."""
    return next((Selection(metric.selects, metric.more_is_better) for metric in metrics if metric.selects), Selection())
