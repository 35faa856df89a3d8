"""What a node can do for a model, whatever the model is, and how its part of the data gets there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from attacks.view import Alteration
from client.config import ClientConfig
from client.state.private_vectors import PrivateVectors
from metrics.metric import Metric
from protocol.requests import Agreement, EvaluateRequest, GlobalModel, TrainReply, TrainRequest


class Learner(Protocol):
    """One node's side of a task.

    ``num_weights``: how many of the shared parameters, the first ones, gradients train; ``None``: all.
    """

    num_weights: int | None

    def train(
        self,
        model: GlobalModel,
        request: TrainRequest,
        *,
        alter: Alteration | None = None,
        keep: bool = True,
    ) -> TrainReply:
        """The updates of the users asked for, in ascending order.

        ``alter``: what an attack puts in place of honest training; without ``keep`` the users' private state stays as
        it is.
        """

    def evaluate(self, model: GlobalModel, request: EvaluateRequest, metrics: Sequence[Metric]) -> dict[str, Tensor]:
        """What the metrics count, by name; counts add up over nodes."""


class LearnerClass(Protocol):
    """What ``client.LEARNERS`` names: how a node comes by its users' data, and what it runs on them."""

    def hosting(self, config: ClientConfig, agreement: Agreement | None) -> Any:
        """Whom this node hosts, with their data: a ``Hosting`` of the learner's own kind.

        ``agreement``: the indexes of the users and items of a node's own file, ``None`` without such a file.
        """

    def of_node(
        self, hosting: Any, private: Callable[[str, int], PrivateVectors], config: ClientConfig, device: torch.device
    ) -> Learner:
        """The learner of a node with these users; ``private(run, dim)`` gives their vectors, if it wants any."""
