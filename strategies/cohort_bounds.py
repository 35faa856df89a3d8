"""How far one user may go in a round, measured by the cohort: what it weighs, and how large its values are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from protocol.updates import Updates
from strategies.server_model import ServerModel


@dataclass(frozen=True)
class Bounded:
    """The updates within the bounds; how many users had their ``weights`` and their ``values`` lowered."""

    updates: Updates
    weights: int = 0
    values: int = 0


def bounded(updates: Updates, value_bound: float, model: ServerModel) -> Bounded:
    """Lower what no honest user of the cohort comes near to; what is within the bounds keeps every bit.

    A weight is at most the number of items. Where the optimizer is Adam, whose second moment remembers one huge
    gradient for thousands of rounds, the largest value of a user is at most ``value_bound`` times the cohort's median
    of these; 0: no bound. An item row that is too large is shortened, and so are a user's shared parameters:
    directions stay.
    """
    weights = updates.num_examples
    if len(model.items):
        weights = weights.clamp(max=len(model.items))
    lowered = int((weights < updates.num_examples).sum())
    limited = replace(updates, num_examples=weights) if lowered else updates
    if not value_bound or model.optimizer != "adam":
        return Bounded(limited, lowered)
    in_rows, in_shared = updates.largest, _largest(updates.shared)
    most_in_rows, most_in_shared = (value_bound * _typical(largest) for largest in (in_rows, in_shared))
    long_rows, long_shared = in_rows > most_in_rows, in_shared > most_in_shared
    if bool(long_rows.any()):
        theirs = long_rows[updates.row_owner].nonzero().flatten()
        shorter = _shortened(updates.rows[theirs], most_in_rows)
        limited = replace(limited, rows=updates.rows.index_copy(0, theirs, shorter))
    if bool(long_shared.any()):
        limited = replace(limited, shared=_shortened(updates.shared, most_in_shared))
    return Bounded(limited, lowered, int((long_rows | long_shared).sum()))


def _typical(largest: Tensor) -> Tensor:
    """The median of the values (n,) that are not 0; infinite where all are, since nothing tells then what is large."""
    sent = largest[largest > 0]
    return sent.median() if len(sent) else largest.new_tensor(torch.inf)


def _shortened(vectors: Tensor, most: Tensor) -> Tensor:
    """Vectors (k, d) with no value beyond ``most``; those without one are multiplied by exactly 1."""
    largest = _largest(vectors)
    return vectors * torch.where(largest > most, most / largest, 1).unsqueeze(1)


def _largest(vectors: Tensor) -> Tensor:
    """(k,) the largest absolute value in each of the vectors (k, d); 0 where d is 0."""
    if not vectors.numel():
        return vectors.new_zeros(len(vectors))
    low, high = vectors.aminmax(dim=1)
    return torch.maximum(-low, high)
