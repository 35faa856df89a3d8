"""The global model at the server, and the optimizer that steps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from models import adam
from models.adam import Moments
from protocol.updates import Gradient

Optimizer = Literal["adam", "sgd"]


@dataclass(frozen=True)
class ServerModel:
    """The global parameters after ``round`` steps, with the optimizer's state. Immutable: a step makes a new one.

    ``items`` (num_items, d) and ``shared`` (p,). With ``optimizer`` "adam" updates are gradients. With "sgd"
    they are differences Δ = θ_local − θ_global, whose mean moves the model: the gradient is −Δ, the learning rate
    FedAvg's server rate (McMahan et al. 2017; Reddi et al. 2021, Algorithm 1), and the moments are empty.
    """

    items: Tensor
    shared: Tensor
    items_moments: Moments
    shared_moments: Moments
    learning_rate: float
    weight_decay: float
    round: int = 0
    optimizer: Optimizer = "adam"

    @staticmethod
    def start(
        items: Tensor, shared: Tensor, learning_rate: float, weight_decay: float, optimizer: Optimizer = "adam"
    ) -> ServerModel:
        """A model before the first round."""
        with_moments = (items, shared) if optimizer == "adam" else (items.new_empty(0), shared.new_empty(0))
        items_moments, shared_moments = map(Moments.zeros_like, with_moments)
        return ServerModel(
            items, shared, items_moments, shared_moments, learning_rate, weight_decay, optimizer=optimizer
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of its tensors by name, as they are kept in files."""
        return {
            "items": self.items,
            "shared": self.shared,
            "items.first": self.items_moments.first,
            "items.second": self.items_moments.second,
            "shared.first": self.shared_moments.first,
            "shared.second": self.shared_moments.second,
        }

    def with_tensors(self, tensors: Mapping[str, Tensor], steps: int) -> ServerModel:
        """The model of the same settings after ``steps`` rounds; the inverse of ``tensors``."""
        return replace(
            self,
            items=tensors["items"],
            shared=tensors["shared"],
            items_moments=Moments(tensors["items.first"], tensors["items.second"]),
            shared_moments=Moments(tensors["shared.first"], tensors["shared.second"]),
            round=steps,
        )

    @property
    def common(self) -> Gradient:
        """λΘ: the L2 part of every client's gradient, which depends on the model alone and is not uploaded.

        Of a difference it is −λΘ.
        """
        decay = self._signed_decay
        return Gradient(self.items * decay, self.shared * decay)

    def step(self, gradient: Gradient) -> ServerModel:
        """The model one round later, with the L2 term added to the gradient."""
        count = self.round + 1
        decay = gradient.l2 * self._signed_decay
        rate = self.learning_rate
        if self.optimizer == "sgd":
            items = self.items.add(gradient.items + decay * self.items, alpha=rate)
            shared = self.shared.add(gradient.shared + decay * self.shared, alpha=rate)
            return replace(self, items=items, shared=shared, round=count)
        items, items_moments = adam.step(self.items, gradient.items, self.items_moments, count, rate, decay)
        shared, shared_moments = adam.step(self.shared, gradient.shared, self.shared_moments, count, rate, decay)
        return replace(
            self,
            items=items,
            shared=shared,
            items_moments=items_moments,
            shared_moments=shared_moments,
            round=count,
        )

    def restricted_to(self, items: Tensor) -> ServerModel:
        """The same model with no items but ``items`` (k,), in this order."""
        state = self.items_moments
        moments = Moments(state.first[items], state.second[items]) if self.optimizer == "adam" else state
        return replace(self, items=self.items[items], items_moments=moments)

    def preview_rows(self, items: Tensor, gradients: Tensor) -> Tensor:
        """What the rows (k, d) of ``items`` (k,) would become in the next step with these gradients (k, d), L2 added.

        An item may stand in ``items`` several times, each time with another gradient.
        """
        if self.optimizer == "sgd":
            rows = self.items.index_select(0, items)
            return rows.add(gradients + self._signed_decay * rows, alpha=self.learning_rate)
        count, decay = self.round + 1, self._signed_decay
        return adam.preview(self.items, gradients, self.items_moments, items, count, self.learning_rate, decay)

    def is_finite(self) -> bool:
        """Whether every parameter is a finite number."""
        # Both ends are NaN where any value is: far cheaper than a truth value for each.
        ends = [torch.stack(values.aminmax()) for values in (self.items, self.shared) if values.numel()]
        return all(bool(torch.isfinite(pair).all()) for pair in ends)

    @property
    def _signed_decay(self) -> float:
        return self.weight_decay if self.optimizer == "adam" else -self.weight_decay
