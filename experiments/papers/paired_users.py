"""Two runs compared user by user: who is recommended its test item in one of them and not in the other.

What another draw of users would change, for these two trainings as they are. What another seed would change is another
question, and usually the larger part: tables answer it by changes paired by seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.papers.groups import TOP, kept_users_of
from experiments.report.intervals import CONFIDENCE
from experiments.report.sheet import Sheet
from metrics.ranked import ranked
from settings.options import OptionError


@dataclass(frozen=True)
class PairedUsers:
    """Of ``users`` evaluated in both runs: ``first`` and ``second`` are hit in one run alone, ``both`` in both.

    A hit is a test item among the user's top 5.
    """

    users: int
    both: int
    first: int
    second: int

    @property
    def difference(self) -> float:
        """HR@5 of the second run less that of the first, over the same users."""
        return (self.second - self.first) / self.users

    @property
    def half(self) -> float:
        """Half of the 95 % interval of ``difference``: the normal one of paired shares."""
        discordant, net = self.first + self.second, self.second - self.first
        deviation = math.sqrt(discordant - net * net / self.users) / self.users
        return float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * deviation

    @property
    def p_value(self) -> float:
        """McNemar's exact test (1947): were both runs alike, either would be the one that hits as often."""
        discordant = self.first + self.second
        return float(stats.binomtest(self.first, discordant).pvalue) if discordant else 1.0


def paired_users(first: Path, second: Path) -> PairedUsers:
    """Compare two runs over the users that both evaluated. Raises ``OptionError`` where that cannot be."""
    ours, theirs = hits(first), hits(second)
    users = sorted(ours.keys() & theirs.keys())
    if not users:
        raise OptionError(f"{first} and {second} have no evaluated user in common.")
    one = np.array([ours[user] for user in users])
    other = np.array([theirs[user] for user in users])
    return PairedUsers(len(users), int((one & other).sum()), int((one & ~other).sum()), int((~one & other).sum()))


def hits(run: Path) -> dict[int, bool]:
    """Whether each evaluated user's test item is among its top 5 at a run's last model."""
    kept, found = kept_users_of(run), dict[int, bool]()
    for vectors, held_out in kept.parts:
        for block in ranked(kept.table, vectors, held_out):
            found |= dict(zip(block.users.tolist(), (block.ranks <= TOP).tolist(), strict=True))
    return found


def users_sheet(first: Path, second: Path) -> Sheet:
    """The comparison as a table."""
    found = paired_users(first, second)
    shares = [(found.both + alone) / found.users for alone in (found.first, found.second)]
    columns = ["users", "HR@5 of the first", "of the second", "difference", "hit in the first alone"]
    columns += ["in the second alone", "p"]
    row = [str(found.users), *(f"{share:.4f}" for share in shares), f"{found.difference:+.4f} ± {found.half:.4f}"]
    row += [str(found.first), str(found.second), f"{found.p_value:.2g}"]
    note = "± is the 95 % interval over users, p McNemar's exact test: what another draw of users would change for "
    note += "these two trainings. Another seed changes more."
    title = f"User by user: {first.resolve().name} and {second.resolve().name}"
    return Sheet(title, columns, [row], [vars(found)], [note])
