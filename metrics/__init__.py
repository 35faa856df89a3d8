"""What an evaluation measures: what nodes count, how counts add up, and what comes out. One metric a file."""

from __future__ import annotations

from robust_fedrec import require_own

require_own(__name__)

from collections.abc import Mapping

from metrics.metric import Metric
from metrics.ranking import Ranking

METRICS: Mapping[str, tuple[Metric, ...]] = {"recommendation": (Ranking(),), "classification": ()}
"""What every node counts, by the task of the run's model; an attack may bring more (``Attack.metrics``).

The first metric of a task counts each user once, selects the best round, and is there in every run. Images are the
server's: no node counts anything there.
"""
