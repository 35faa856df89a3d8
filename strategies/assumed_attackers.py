"""The option that several rules share: how many attackers to reckon with in a round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from settings.options import require
from strategies.rule import AUTOMATIC, RuleOptions, assumed_attackers


@dataclass(frozen=True)
class AssumedAttackers(RuleOptions):
    """The attackers f assumed in a round, of a rule that needs a majority of honest users.

    ``prefix`` stands in front of the option's name.
    """

    prefix: ClassVar[str] = ""

    num_malicious_nodes: int = assumed_attackers()

    def settled(self, clients_per_round: int, num_malicious: int) -> Self:
        """See ``RuleOptions``. Raises ``OptionError`` unless most of a round's users are honest."""
        f = num_malicious if self.num_malicious_nodes == AUTOMATIC else self.num_malicious_nodes
        require(
            clients_per_round > 2 * f,
            self._option,
            f,
            f"at most {max((clients_per_round - 1) // 2, 0)} with {clients_per_round} clients per round, since "
            "the rule needs a majority of honest ones",
        )
        return replace(self, num_malicious_nodes=f)

    def assumed(self, num_updates: int) -> int:
        """The f that a round with so many updates can bear: fewer than half of them."""
        return max(min(self.num_malicious_nodes, (num_updates - 1) // 2), 0)

    @property
    def _option(self) -> str:
        return f"{self.prefix}-num-malicious-nodes"
