"""What the server accepts of a reply: every user's update is judged by itself, before any defense sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.kernels.admission import users_with_bad_items
from protocol.updates import Updates, make_updates
from protocol.upload_dtype import UploadDtype

LARGEST_VALUE = 1e9
"""The largest number in an update. Its square is 1e18, so that a sum of squares over 1e20 coordinates (a norm, a
distance, Adam's second moment) still is a 32-bit float; an honest gradient lies many orders of magnitude below."""

NOT_ASKED = "was not asked for"
MISSING = "is missing from the reply"


class UnreadableError(ValueError):
    """A message of which nothing can be used; the text says why."""


@dataclass(frozen=True)
class Limits:
    """What a reply to one request may hold.

    ``users`` (k,) int64: who was asked for; ``max_examples``: the largest weight a user may claim;
    ``upload_dtype``: the kind of number that the updates must have.
    """

    users: Tensor
    num_items: int
    dim: int
    shared_size: int
    max_examples: int
    upload_dtype: UploadDtype = "float32"

    @property
    def most_users(self) -> int:
        """Users in one reply: room for a few too many, which are dropped one by one."""
        return 2 * len(self.users) + 8

    @property
    def most_rows(self) -> int:
        """Item rows in one reply: all of them from every user who was asked for."""
        return len(self.users) * self.num_items

    @property
    def most_bytes(self) -> int:
        """Bytes of a reply with so many users and rows, headers included."""
        a_user = 4 * 8 + 4 * self.shared_size
        return 4096 + self.most_users * a_user + self.most_rows * (8 + 4 * self.dim)


@dataclass(frozen=True)
class Admitted:
    """The updates that passed with their losses, and who did not.

    ``losses`` (n,): NaN where a user told an impossible one. ``rejected``: for each user who was asked for the
    first reason found; ``not_asked``: how many others were in the reply.
    """

    updates: Updates
    losses: Tensor
    rejected: dict[int, str] = field(default_factory=dict)
    not_asked: int = 0


def admit(columns: Mapping[str, Tensor], limits: Limits) -> Admitted:
    """Judge the columns of one reply (see ``Updates``; ``losses`` (n,) beside them).

    Raises ``UnreadableError`` where the columns do not fit each other, so that no user can be told apart.
    Nothing larger than the columns themselves is allocated.
    """
    _check_frame(columns, limits)
    users, row_splits, items = columns["users"], columns["row_splits"], columns["items"]
    about_items = users_with_bad_items(row_splits.contiguous().numpy(), items.contiguous().numpy(), limits.num_items)
    outside, unordered = map(torch.from_numpy, about_items)
    updates = make_updates(users, columns["num_examples"], row_splits, items, columns["rows"], columns["shared"])
    examples = updates.num_examples
    asked = torch.isin(users, limits.users)
    reasons = {
        "stands twice in the reply": _repeated(users),
        f"claims a number of examples outside 1 to {limits.max_examples}": (examples < 1)
        | (examples > limits.max_examples),
        "has an item outside the table": outside,
        "has items that are not strictly increasing": unordered,
        # Not the other way round: a NaN is never smaller than anything.
        "has a value that is not finite or too large": ~(updates.largest <= LARGEST_VALUE)
        | _row_is_bad(updates.shared),
    }
    rejected: dict[int, str] = {}
    good = asked
    for reason, bad in reasons.items():
        for user in users[bad & good].tolist():
            rejected[user] = reason
        good = good & ~bad
    for user in limits.users[~torch.isin(limits.users, users)].tolist():
        rejected[user] = MISSING
    losses = columns["losses"]
    losses = losses.where(losses.abs() <= LARGEST_VALUE, torch.nan)
    return Admitted(updates.select(good), losses[good], rejected, int((~asked).sum()))


def _check_frame(columns: Mapping[str, Tensor], limits: Limits) -> None:
    count, row_splits, items = len(columns["users"]), columns["row_splits"], columns["items"]
    if count > limits.most_users:
        raise UnreadableError(f"{count} users where {len(limits.users)} were asked for")
    if len(items) > limits.most_rows:
        raise UnreadableError(f"{len(items)} item rows, at most {limits.most_rows} are possible")
    for name in ("num_examples", "losses"):
        if len(columns[name]) != count:
            raise UnreadableError(f"{len(columns[name])} {name} for {count} users")
    if len(row_splits) != count + 1 or int(row_splits[0]) != 0 or int(row_splits[-1]) != len(items):
        raise UnreadableError("row_splits that do not span the rows")
    # Compared, not subtracted: a difference of two 64-bit numbers may wrap round.
    if bool((row_splits[1:] < row_splits[:-1]).any()):
        raise UnreadableError("row_splits that decrease")
    if columns["rows"].shape != (len(items), limits.dim):
        raise UnreadableError(f"rows of shape {tuple(columns['rows'].shape)}, expected ({len(items)}, {limits.dim})")
    if columns["shared"].shape != (count, limits.shared_size):
        raise UnreadableError(
            f"shared parameters of shape {tuple(columns['shared'].shape)}, expected ({count}, {limits.shared_size})"
        )


def _row_is_bad(values: Tensor) -> Tensor:
    """(n,) whether a row holds a NaN, an infinity, or a value too large."""
    if not values.numel():
        return torch.zeros(len(values), dtype=torch.bool)
    # Both ends are NaN where any value is: one pass settles the usual case, in which all is well.
    low, high = values.aminmax()
    if bool((low >= -LARGEST_VALUE) & (high <= LARGEST_VALUE)):
        return torch.zeros(len(values), dtype=torch.bool)
    return ~(values.abs().amax(1) <= LARGEST_VALUE)


def _repeated(users: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(users, return_inverse=True, return_counts=True)
    repeated: Tensor = counts[inverse] > 1
    return repeated
