"""What a node can do for a model, whatever the model is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from attacks.view import Alteration
from protocol.requests import EvaluateRequest, GlobalModel, TrainReply, TrainRequest


class Learner(Protocol):
    """One node's side of a task."""

    def train(
        self,
        model: GlobalModel,
        request: TrainRequest,
        *,
        alter: Alteration | None = None,
        keep: bool = True,
    ) -> TrainReply:
        """The updates of the users asked for, in ascending order.

        ``alter`` trains on other pairs; without ``keep`` the users' private state stays as it is.
        """

    def evaluate(self, model: GlobalModel, request: EvaluateRequest) -> dict[str, Tensor]:
        """Counts and sums by name, each of which adds up over nodes."""
