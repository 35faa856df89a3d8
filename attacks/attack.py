"""What an attack is: the malicious users' honest updates in, poisoned ones out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from attacks.view import Alteration, AttackerView
from metrics.metric import Metric
from protocol.updates import Updates


@dataclass(frozen=True)
class NoOptions:
    """The options of an attack that has none."""


def is_attacked(server_round: int, start: int, stop: int) -> bool:
    """Whether malicious users attack in a round: from ``start`` to ``stop``, 0 for no end; else they are honest."""
    return start <= server_round and (not stop or server_round <= stop)


class Attack(ABC):
    """The attacker of one node, shared by all the malicious users that it controls.

    A subclass names the prefix of its options and their dataclass, which is read from the run's
    configuration: ``prefix = "cluster"`` and a field ``threshold`` make the option ``cluster-threshold``. ``alone``:
    each malicious user attacks by itself, so that it does not matter how many nodes they live on. ``promotes``: whether
    it needs target items.
    """

    prefix: ClassVar[str] = ""
    alone: ClassVar[bool] = False
    promotes: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None) -> None:
        self.options = self.Options() if options is None else options

    @abstractmethod
    def poison(self, view: AttackerView) -> Updates:
        """What the selected malicious users upload, one update for each of ``view.selected``, in that order."""

    def metrics(self) -> Sequence[Metric]:
        """What this attack is measured by, beside the metrics of every run: counted by all nodes for benign users.

        Asked of an attack that has only its options, on the server and on every node: both must get the same.
        """
        return ()

    def private_pairs(self) -> Alteration | None:
        """What the users' private vectors are stepped by in place of their honest pairs; ``None``: by the honest ones.

        It must depend on nothing but the pairs.
        """
        return None

    def state(self) -> dict[str, float]:
        """What must survive until the next round, as numbers by name; also what the log shows of the attack."""
        return {}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what ``state`` gave; an attack without state has nothing to go on from."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but was given {sorted(state)}.")
