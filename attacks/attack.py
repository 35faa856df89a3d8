"""What an attack is: the malicious users' honest updates in, poisoned ones out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

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
    it needs target items; ``knows_public``: whether it is shown the interactions that the run declares public;
    ``omniscient``: whether it sees the benign updates, which only a simulation grants (``poison_knowing``).
    """

    prefix: ClassVar[str] = ""
    alone: ClassVar[bool] = False
    promotes: ClassVar[bool] = False
    knows_public: ClassVar[bool] = False
    omniscient: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None) -> None:
        self.options = self.Options() if options is None else options

    @abstractmethod
    def poison(self, view: AttackerView) -> Updates:
        """What the selected malicious users upload, one update for each of ``view.selected``, in that order."""

    def poison_knowing(self, benign: Updates, own: Updates, num_items: int, generator: np.random.Generator) -> Updates:
        """What the malicious users of ``own`` upload, in that order, where the round's ``benign`` updates are known.

        Asked of an omniscient attack alone, by a simulation's server; ``generator`` depends on (seed, round).
        """
        raise NotImplementedError

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

    def memory(self) -> bytes:
        """What else must survive, too large for the log: b"" where nothing is new since the last time."""
        return b""

    def recall(self, memory: bytes) -> None:
        """Take back what ``memory`` last gave, before ``restore``."""
        if memory:
            raise ValueError(f"{type(self).__name__} keeps no memory, but was given {len(memory)} bytes of it.")

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what ``state`` gave; an attack without state has nothing to go on from."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but was given {sorted(state)}.")
