"""How a run that came to its last round ended: a result, or numbers that nobody should take for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metrics.metric import Selection
from server.results.tally import Tally

Status = Literal["completed", "failed", "attack failed", "not evaluated", "interrupted"]


@dataclass(frozen=True)
class Ending:
    """A run's status, and, where it is not "completed", why."""

    status: Status
    reason: str = ""


def ending(tally: Tally, selection: Selection) -> Ending:
    """What a run's tally says of it, the worst first.

    "failed": no round ever trained the model. "attack failed": in no attacked round did all updates of the attackers
    that were asked come in. "not evaluated": ``selection``, the metric that selects the best round, was never known.
    """
    if tally.rounds and tally.skipped == tally.rounds:
        return Ending("failed", f"None of {tally.rounds} rounds trained the model. The last one: {tally.why_skipped}.")
    if tally.attacked_rounds and not tally.carried_out:
        return Ending(
            "attack failed",
            f"In none of {tally.attacked_rounds} rounds with malicious users did all of them answer with an update "
            "that could be used, so that the metrics show no attack: see rejected and failed_nodes in rounds.jsonl.",
        )
    if selection.name and tally.evaluations and not tally.known(selection):
        reason = f"No evaluation has a value of {selection.name}: see failed_nodes in metrics.jsonl."
        return Ending("not evaluated", reason)
    return Ending("completed")
