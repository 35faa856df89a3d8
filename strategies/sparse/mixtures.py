"""Averages of updates as updates: what a rule hands on that mixes users before the next rule judges them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models.kernels.bounds import require_items
from models.kernels.gram import rows_by_item
from models.kernels.mixing import mix
from protocol.updates import Gradient, Updates, gather, make_updates, splits_of
from strategies.sparse.item_columns import CELLS
from strategies.sparse.side_by_side import side_by_side

PARTS = 16
"""Stretches of items that are mixed side by side."""


class Mixtures(Updates):
    """Updates Σ_j W_kj g_j of others, ``sources`` (n), whose rows are made only for a rule that asks for them.

    ``weights`` W (m, n) float64; ``distances`` (n, n): the squared ones between the sources, λΘ included, where they
    are known. Means of mixtures, and distances between them, are found without their rows.
    """

    sources: Updates
    weights: Tensor
    distances: Tensor | None

    def __new__(cls, *values: Any, **fields: Any) -> Updates:  # type: ignore[misc]
        """Ordinary updates: what ``replace`` makes of mixtures is no longer the mean of the sources."""
        return Updates(*values, **fields)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """The other parameters and the rows, made where somebody asks for them."""
            if name == "shared":
                made = {name: self.weights.to(self.sources.shared.dtype) @ self.sources.shared}
            elif name in ("row_splits", "items", "rows"):
                written = gather([self.distinct], self.which)
                made = {field: getattr(written, field) for field in ("row_splits", "items", "rows")}
            else:
                raise AttributeError(name)
            self.__dict__.update(made)
            return made[name]

    def select(self, chosen: Tensor) -> Updates:
        """See ``Updates``; mixtures, too."""
        weights, users, examples = self.weights[chosen], self.users[chosen], self.num_examples[chosen]
        return _mixtures(self.sources, weights, users, examples, self.distances)

    def weighted_mean(self, num_items: int, weights: Tensor | None = None) -> Gradient:
        """See ``Updates``; the mean of mixtures is a mixture itself."""
        weights = self.num_examples if weights is None else weights
        return self.sources.weighted_mean(num_items, weights.to(self.weights.dtype) @ self.weights)

    @property
    def which(self) -> Tensor:
        """(m,) which of the different ones each mixture is."""
        return self._different[1]

    @property
    def repeats(self) -> Tensor:
        """(q,) how many mixtures each of the different ones is."""
        return torch.bincount(self.which, minlength=len(self._different[0]))

    @cached_property
    def distinct(self) -> Updates:
        """The q different ones, with their rows."""
        return _written(self.sources, self._different[0])

    @cached_property
    def _different(self) -> tuple[Tensor, Tensor]:
        """The different rows (q, n) of the weights, and which of them each mixture has (m,)."""
        weights, which = torch.unique(self.weights, dim=0, return_inverse=True)
        return weights, which

    def squared_distances(self, between: Tensor) -> Tensor:
        """(m, m) between the mixtures, from those ``between`` the sources (n, n).

        ‖Σ_i v_i g_i‖² = −½ Σ_ij v_i v_j ‖g_i − g_j‖² where the v_i sum to 0, as the differences of two rows of W do.
        """
        weights, which = self._different
        far = between.isinf()
        crossed = weights @ between.masked_fill(far, 0) @ weights.T
        own = crossed.diagonal()
        distances = crossed - (own.unsqueeze(1) + own) / 2
        if bool(far.any()):
            members = (weights > 0).to(weights.dtype)
            distances[members @ far.to(weights.dtype) @ members.T > 0] = torch.inf
        return distances.clamp_(min=0).fill_diagonal_(0)[which][:, which]


def mixtures(updates: Updates, weights: Tensor, users: Tensor, distances: Tensor | None = None) -> Mixtures:
    """The m updates Σ_j W_kj g_j, called ``users`` (m,), for weights W (m, n) from 0 on with rows that sum to 1.

    A mixture has rows for the items that one of its members touched, and its members' mean number of examples.
    ``distances``: see ``Mixtures``.
    """
    weights = weights.double()
    examples = (weights @ updates.num_examples.double()).round().clamp(min=1).to(torch.int64)
    return _mixtures(updates, weights, users, examples, distances)


def _mixtures(
    sources: Updates, weights: Tensor, users: Tensor, num_examples: Tensor, distances: Tensor | None
) -> Mixtures:
    mixed: Mixtures = object.__new__(Mixtures)
    # Equal shares stay what they are, however the weights were rounded.
    least = sources.l2_share.min()
    l2_share = least + weights.to(least.dtype) @ (sources.l2_share - least)
    known = {"users": users, "num_examples": num_examples, "l2_share": l2_share}
    mixed.__dict__.update(known, sources=sources, weights=weights, distances=distances)
    return mixed


def _written(updates: Updates, weights: Tensor) -> Updates:
    """The updates Σ_j W_kj g_j with their rows, users and numbers of examples aside."""
    num_items = int(updates.items.max()) + 1 if len(updates.items) else 0
    touched = torch.zeros(len(updates), num_items, dtype=updates.rows.dtype, device=updates.rows.device)
    touched[updates.row_owner, updates.items] = 1
    reached = ((weights > 0).to(touched.dtype) @ touched) > 0
    splits = splits_of(reached.sum(1))
    destination = splits[:-1].unsqueeze(1) + reached.cumsum(1) - 1
    share = weights.to(updates.rows.dtype)
    rows = updates.rows.new_empty(int(splits[-1]), updates.dim)
    (_mix if updates.has_kernels else _mix_dense)(updates, share, torch.where(reached, destination, -1), rows)
    numbers = torch.arange(len(weights), device=splits.device)
    return make_updates(numbers, torch.ones_like(numbers), splits, reached.nonzero()[:, 1], rows)


def _mix(updates: Updates, share: Tensor, destination: Tensor, rows: Tensor) -> None:
    """Fill ``rows`` with the mixtures' rows; ``destination`` (m, num_items): where each one's are, −1 for nowhere."""
    splits, items, sent = updates.arrays()
    num_items = destination.shape[1]
    require_items(items, num_items)
    index = rows_by_item(splits, items, num_items)

    def of_items(part: int) -> None:
        first, stop = (num_items * cut // PARTS for cut in (part, part + 1))
        mix(*index, sent, share.numpy(), destination.numpy(), first, stop, rows.numpy())

    side_by_side(of_items, range(PARTS))


def _mix_dense(updates: Updates, share: Tensor, destination: Tensor, rows: Tensor) -> None:
    """The same by dense blocks of items, as torch does it on other devices."""
    count, num_items = destination.shape
    owner, dim = updates.row_owner, updates.dim
    order = updates.items.argsort(stable=True)
    starts = splits_of(torch.bincount(updates.items, minlength=num_items)).tolist()
    # No two blocks share an item, so that none of their rows is another's.
    width = max(1, CELLS // (max(count, len(updates)) * max(dim, 1)))
    for first in range(0, num_items, width):
        last = min(first + width, num_items)
        sent, items = order[starts[first] : starts[last]], last - first
        block = rows.new_zeros(len(updates) * items, dim)
        block.index_copy_(0, owner[sent] * items + updates.items[sent] - first, updates.rows.index_select(0, sent))
        mixed = (share @ block.view(len(updates), items * dim)).view(count * items, dim)
        places = destination[:, first:last].flatten()
        rows.index_copy_(0, places[places >= 0], mixed[places >= 0])
