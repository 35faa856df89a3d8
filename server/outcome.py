"""How one round went, and what one evaluation counted: what a run's record and its observers are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.intake import Intake
from strategies.cohort_bounds import Bounded
from strategies.rule import Aggregate, Verdict

NOBODY: NDArray[np.int64] = np.empty(0, np.int64)


@dataclass(frozen=True)
class RoundOutcome:
    """What came in, and what the rule made of it (``None``: nothing, the model stayed).

    ``asked``: how many users; ``skipped`` says why the model stayed; ``quarantined``: the nodes that are not asked from
    now on; ``verdicts``: what the rules thought of the users, outermost first, also where they left nobody;
    ``attackers`` (k,): the users who attack in this round, for measurement alone, and ``attackers_asked`` how many of
    them were asked; ``within``: the updates as the rule saw them.
    """

    server_round: int
    asked: int
    intake: Intake
    aggregate: Aggregate | None
    bytes_down: int
    skipped: str = ""
    quarantined: tuple[int, ...] = ()
    attackers: NDArray[np.int64] = field(default_factory=lambda: NOBODY)
    attackers_asked: int = 0
    verdicts: tuple[Verdict, ...] = ()
    seconds: float = 0.0
    within: Bounded | None = None

    @property
    def attackers_came(self) -> int:
        """How many attackers' updates came in and passed admission."""
        return 0 if self.intake.updates is None else int(np.isin(self.intake.updates.users, self.attackers).sum())


@dataclass(frozen=True)
class Counted:
    """The nodes' counts of one evaluation, added up: lists by name.

    ``failed``: which nodes gave no counts, and why; ``of_users``: how many users the nodes that answered were to count,
    by what the server knows of them; ``bytes_down``, ``bytes_up``: of arrays to the nodes and from them.
    """

    totals: Mapping[str, list[int]]
    failed: Mapping[int, str]
    of_users: int
    bytes_down: int
    bytes_up: int
