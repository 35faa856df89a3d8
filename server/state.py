"""A run's state: one frozen value, which a checkpoint writes down and a resume reads back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flwr.app import ArrayRecord

from protocol.messages import model_record
from protocol.requests import GlobalModel
from server.results.tally import Tally
from strategies.server_model import ServerModel


@dataclass(frozen=True)
class RunState:
    """A run after ``round`` rounds; a round makes another one of it. Nothing of a run's state is anywhere else.

    ``run``: the name under which nodes keep their own state of this run. ``model``: with its optimizer. ``rule``: what
    the rule carries from round to round. ``offences``: for each node in how many rounds in a row it failed or had a
    user rejected; ``quarantined``: the round since which a node is not asked any more. ``resumed_at``: after which
    round each resume took the run up; ``keep_from``: the oldest round to which a resume may go back (see
    ``TrainRequest``).
    """

    run: str
    round: int
    model: ServerModel
    rule: Mapping[str, Any] = field(default_factory=dict)
    offences: Mapping[int, int] = field(default_factory=dict)
    quarantined: Mapping[int, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    resumed_at: tuple[int, ...] = ()
    keep_from: int = 0

    @cached_property
    def arrays(self) -> ArrayRecord:
        """The global model as nodes get it, shared by all messages of a round."""
        return model_record(self.global_model)

    @property
    def global_model(self) -> GlobalModel:
        """The global parameters."""
        return GlobalModel(self.model.items, self.model.shared)

    def as_json(self) -> dict[str, Any]:
        """Everything but the model's tensors, as JSON can hold it."""
        return {
            "run": self.run,
            "round": self.round,
            "steps": self.model.round,
            "rule": self.rule,
            "offences": {str(node): count for node, count in self.offences.items()},
            "quarantined": {str(node): since for node, since in self.quarantined.items()},
            "tally": self.tally.as_json(),
            "resumed_at": list(self.resumed_at),
            "keep_from": self.keep_from,
        }

    @staticmethod
    def of_json(found: Mapping[str, Any], model: ServerModel) -> RunState:
        """The inverse of ``as_json``, with the model of that moment."""
        return RunState(
            run=str(found["run"]),
            round=int(found["round"]),
            model=model,
            rule=dict(found["rule"]),
            offences={int(node): int(count) for node, count in found["offences"].items()},
            quarantined={int(node): int(since) for node, since in found["quarantined"].items()},
            tally=Tally.of_json(found["tally"]),
            resumed_at=tuple(int(number) for number in found["resumed_at"]),
            keep_from=int(found["keep_from"]),
        )
