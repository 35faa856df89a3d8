"""What the server accepts of a reply: every user's update is judged by itself, before any defense sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from protocol.updates import Updates, make_updates

LARGEST_VALUE = 1e15
"""Beyond this, squares overflow 32-bit floats and Adam's second moment would never recover."""


class UnreadableError(ValueError):
    """A message of which nothing can be used; the text says why."""


@dataclass(frozen=True)
class Limits:
    """What a reply to one request may hold.

    ``users`` (k,) int64: who was asked for; ``max_examples``: the largest weight a user may claim.
    """

    users: Tensor
    num_items: int
    dim: int
    shared_size: int
    max_examples: int


@dataclass(frozen=True)
class Admitted:
    """The updates that passed with their losses, and the users that did not with the first reason found."""

    updates: Updates
    losses: Tensor
    rejected: dict[int, str]


def admit(columns: Mapping[str, Tensor], limits: Limits) -> Admitted:
    """Judge the columns of one reply (see ``Updates``; ``losses`` (n,) beside them).

    Raises ``UnreadableError`` where the columns do not fit each other, so that no user can be told apart.
    """
    _check_frame(columns, limits)
    users, row_splits, items = columns["users"], columns["row_splits"], columns["items"]
    owner = torch.arange(len(users)).repeat_interleave(row_splits.diff(), output_size=len(items))
    values = _row_is_bad(columns["rows"])
    steps = items.diff() <= 0
    out_of_order = torch.zeros(len(items), dtype=torch.bool)
    if len(items):
        out_of_order[1:] = steps & (owner[1:] == owner[:-1])
    examples = columns["num_examples"]
    reasons = {
        "was not asked for": ~torch.isin(users, limits.users),
        "stands twice in the reply": _repeated(users),
        f"claims a number of examples outside 1 to {limits.max_examples}": (examples < 1)
        | (examples > limits.max_examples),
        "has an item outside the table": _any_of(owner, (items < 0) | (items >= limits.num_items), len(users)),
        "has items that are not strictly increasing": _any_of(owner, out_of_order, len(users)),
        "has a value that is not finite or too large": _any_of(owner, values, len(users))
        | _row_is_bad(columns["shared"]),
    }
    rejected: dict[int, str] = {}
    good = torch.ones(len(users), dtype=torch.bool)
    for reason, bad in reasons.items():
        for user in users[bad & good].tolist():
            rejected[user] = reason
        good &= ~bad
    parts = {name: columns[name] for name in ("users", "num_examples", "row_splits", "items", "rows", "shared")}
    updates = make_updates(**parts)
    losses = torch.nan_to_num(columns["losses"], nan=0.0, posinf=0.0, neginf=0.0)
    return Admitted(updates.select(good), losses[good], rejected)


def _check_frame(columns: Mapping[str, Tensor], limits: Limits) -> None:
    count, row_splits, items = len(columns["users"]), columns["row_splits"], columns["items"]
    for name in ("num_examples", "losses"):
        if len(columns[name]) != count:
            raise UnreadableError(f"{len(columns[name])} {name} for {count} users")
    if len(row_splits) != count + 1 or int(row_splits[0]) != 0 or int(row_splits[-1]) != len(items):
        raise UnreadableError("row_splits that do not span the rows")
    if bool((row_splits.diff() < 0).any()):
        raise UnreadableError("row_splits that decrease")
    if columns["rows"].shape != (len(items), limits.dim):
        raise UnreadableError(f"rows of shape {tuple(columns['rows'].shape)}, expected ({len(items)}, {limits.dim})")
    if columns["shared"].shape != (count, limits.shared_size):
        raise UnreadableError(
            f"shared parameters of shape {tuple(columns['shared'].shape)}, expected ({count}, {limits.shared_size})"
        )


def _row_is_bad(values: Tensor) -> Tensor:
    """(n,) whether a row holds a NaN, an infinity, or a value too large."""
    if not values.shape[1]:
        return torch.zeros(len(values), dtype=torch.bool)
    return ~(values.abs().amax(1) <= LARGEST_VALUE)


def _any_of(owner: Tensor, flags: Tensor, count: int) -> Tensor:
    """(count,) whether any of an owner's flags is set."""
    result = torch.zeros(count, dtype=torch.bool)
    result[owner[flags]] = True
    return result


def _repeated(users: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(users, return_inverse=True, return_counts=True)
    repeated: Tensor = counts[inverse] > 1
    return repeated
