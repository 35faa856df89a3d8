"""The global model at the server, and the optimizer that steps it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models import adam
from models.adam import Moments
from protocol.updates import Gradient


@dataclass(frozen=True)
class ServerModel:
    """The global parameters after ``round`` steps, with Adam's state. Immutable: a step makes a new one.

    ``items`` (num_items, d) and ``shared`` (p,).
    """

    items: Tensor
    shared: Tensor
    items_moments: Moments
    shared_moments: Moments
    learning_rate: float
    weight_decay: float
    round: int = 0

    @staticmethod
    def start(items: Tensor, shared: Tensor, learning_rate: float, weight_decay: float) -> ServerModel:
        """A model before the first round."""
        return ServerModel(
            items, shared, Moments.zeros_like(items), Moments.zeros_like(shared), learning_rate, weight_decay
        )

    @property
    def common(self) -> Gradient:
        """λΘ: the L2 part of every client's gradient, which depends on the model alone and is not uploaded."""
        return Gradient(self.items * self.weight_decay, self.shared * self.weight_decay)

    def step(self, gradient: Gradient) -> ServerModel:
        """The model one round later, with the L2 term added to the gradient."""
        count = self.round + 1
        decay = gradient.l2 * self.weight_decay
        items, items_moments = adam.step(
            self.items, gradient.items + decay * self.items, self.items_moments, count, self.learning_rate
        )
        shared, shared_moments = adam.step(
            self.shared, gradient.shared + decay * self.shared, self.shared_moments, count, self.learning_rate
        )
        return ServerModel(items, shared, items_moments, shared_moments, self.learning_rate, self.weight_decay, count)

    def preview_rows(self, items: Tensor, gradients: Tensor) -> Tensor:
        """What the rows (k, d) of ``items`` (k,) would become in the next step with these gradients (k, d), L2 added.

        An item may stand in ``items`` several times, each time with another gradient.
        """
        rows = self.items[items]
        moments = Moments(self.items_moments.first[items], self.items_moments.second[items])
        stepped, _ = adam.step(rows, gradients + self.weight_decay * rows, moments, self.round + 1, self.learning_rate)
        return stepped

    def is_finite(self) -> bool:
        """Whether every parameter is a finite number."""
        return bool(torch.isfinite(self.items).all() and torch.isfinite(self.shared).all())
