"""A random choice of coordinates, for rules that look at some of them only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from protocol.updates import Updates
from strategies.server_model import ServerModel


@dataclass(frozen=True)
class Coordinates:
    """Which coordinates were chosen, as zeros and ones: ``items`` (num_items, d) and ``shared`` (p,)."""

    items: Tensor
    shared: Tensor

    def of_updates(self, updates: Updates) -> Updates:
        """The updates with zeros in all the other coordinates."""
        rows = updates.rows * self.items.index_select(0, updates.items)
        return replace(updates, rows=rows, shared=updates.shared * self.shared)

    def of_model(self, model: ServerModel) -> ServerModel:
        """The model with zeros in all the other coordinates, so that its L2 term is theirs alone."""
        return replace(model, items=model.items * self.items, shared=model.shared * self.shared)


def sample_coordinates(model: ServerModel, count: int, generator: np.random.Generator) -> Coordinates:
    """``count`` of the model's coordinates, each as likely as any other; all of them where there are no more."""
    total, of_items = model.items.numel() + model.shared.numel(), model.items.numel()
    chosen = torch.ones(total, dtype=model.items.dtype)
    if count < total:
        drawn = torch.from_numpy(generator.choice(total, count, replace=False, shuffle=False))
        chosen = torch.zeros_like(chosen).index_fill_(0, drawn, 1)
    chosen = chosen.to(model.items.device)
    return Coordinates(chosen[:of_items].view_as(model.items), chosen[of_items:].to(model.shared.dtype))
