"""The one data structure: the updates of n users, ragged and sparse, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from models.kernels import sparse_sums
from models.kernels.bounds import has_kernels, require_items, require_splits

BLOCK = 4096
"""Rows that are looked at together: a megabyte of them at a width of 64."""


@dataclass(frozen=True)
class Gradient:
    """One dense gradient of the global model, as the server's optimizer takes it.

    ``items`` (num_items, d) and ``shared`` (p,). ``l2`` says how much of the common L2 term λΘ the
    optimizer adds: 1, unless a rule scaled the updates that carry it.
    """

    items: Tensor
    shared: Tensor
    l2: float = 1.0


@dataclass(frozen=True)
class Updates:
    """What n users upload in one round.

    ``users`` (n,) int64; ``num_examples`` (n,) int64; ``row_splits`` (n+1,) int64: the item rows of user
    k are ``row_splits[k]:row_splits[k+1]``; ``items`` (r,) int64: the item of each row, strictly
    increasing within a user; ``rows`` (r, d): ∂L_k/∂e_item; ``shared`` (n, p): the other shared
    parameters, flattened (p = 0 for MF). A dense update is the case of r = n·num_items, a model without
    item table the case r = 0.

    ``l2_share`` (n,) never travels: every user's true gradient holds the same term λΘ, which the server
    knows and adds itself; a rule that scales an update scales its share of that term too.
    """

    users: Tensor
    num_examples: Tensor
    row_splits: Tensor
    items: Tensor
    rows: Tensor
    shared: Tensor
    l2_share: Tensor

    def __len__(self) -> int:
        return len(self.users)

    @property
    def dim(self) -> int:
        """Width d of an item row."""
        return int(self.rows.shape[1])

    @property
    def row_counts(self) -> Tensor:
        """(n,) how many item rows each user sent."""
        return self.row_splits.diff()

    @property
    def row_owner(self) -> Tensor:
        """(r,) position (not id) of the user whose row it is."""
        positions = torch.arange(len(self), device=self.users.device)
        return positions.repeat_interleave(self.row_counts, output_size=len(self.items))

    @property
    def num_bytes(self) -> int:
        """Bytes that these updates take on the wire."""
        sent = (getattr(self, field.name) for field in fields(self) if field.name != "l2_share")
        return sum(tensor.numel() * tensor.element_size() for tensor in sent)

    def select(self, chosen: Tensor) -> Updates:
        """The chosen users, by a (n,) bool mask or by positions in the wanted order."""
        positions = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen
        if len(positions) == len(self) and bool((positions.diff() == 1).all()):
            return self
        return gather([self], positions)

    def sorted_by_user(self) -> Updates:
        """In ascending order of user, so that no sum depends on the order in which replies came in."""
        return self.select(self.users.argsort())

    def norms(self, common: Gradient | None = None) -> Tensor:
        """(n,) L2 norm of each whole update.

        With ``common`` = λΘ the norm of g + λΘ, without making it dense:
        ‖g+λΘ‖² = ‖g‖² + 2⟨g, λΘ⟩ + ‖λΘ‖².
        """
        squares = self.extent[1].to(self.rows.dtype) + self.shared.square().sum(1)
        if common is not None:
            inner = self.inner(common)
            constant = common.items.square().sum() + common.shared.square().sum()
            squares = squares + self.l2_share * (2 * inner + self.l2_share * constant)
        return squares.clamp(min=0).sqrt()

    def inner(self, gradient: Gradient) -> Tensor:
        """(n,) the inner product of each whole update with one gradient."""
        if self.has_kernels:
            table = _array(gradient.items.to(self.rows.dtype))
            row_splits, touched, values = self.arrays()
            require_items(touched, len(table))
            summed = sparse_sums.inner_products(row_splits, touched, values, table)
            return torch.from_numpy(summed).to(self.rows.dtype) + self.shared @ gradient.shared
        # A block of rows at a time: the products stay in the cache instead of becoming a second (r, d).
        blocks = zip(torch.split(self.rows, BLOCK), torch.split(self.items, BLOCK), strict=True)
        products = [(rows * gradient.items.index_select(0, items)).sum(1) for rows, items in blocks]
        return self._sum_rows(torch.cat(products)) + self.shared @ gradient.shared

    def scale(self, factors: Tensor) -> Updates:
        """Each user's update times its factor (n,)."""
        _require_one_a_user(factors, len(self))
        require_splits(_array(self.row_splits.cpu()), len(self), len(self.rows))
        scaled = replace(self, shared=self.shared * factors.unsqueeze(1), l2_share=self.l2_share * factors)
        if self.has_kernels:
            scaled.__dict__["factors"] = factors.to(self.rows.dtype)
            scaled.__dict__["unscaled"] = scaled.__dict__.pop("rows")
            return scaled
        return replace(scaled, rows=self.rows * factors[self.row_owner].unsqueeze(1))

    if not TYPE_CHECKING:
        # To a type checker every name would be there.
        def __getattr__(self, name):
            """The rows of scaled updates: they are multiplied where somebody asks for them; a mean does without."""
            if name != "rows" or "unscaled" not in self.__dict__:
                raise AttributeError(name)
            parts = (self.row_splits, self.__dict__["unscaled"], self.__dict__["factors"])
            self.__dict__["rows"] = torch.from_numpy(sparse_sums.scaled(*map(_array, parts)))
            return self.__dict__["rows"]

    def weighted_mean(self, num_items: int, weights: Tensor | None = None) -> Gradient:
        """Σ w_k g_k / Σ w_k, with w = ``num_examples`` unless ``weights`` (n,) are given."""
        weights = self.num_examples if weights is None else weights
        weights = weights.to(self.shared.dtype)
        weights = weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
        # Updates that were scaled are multiplied as they are added: their rows need not be written for that.
        stored = replace(self, rows=self.__dict__["unscaled"]) if "unscaled" in self.__dict__ else self
        items = stored.rows.new_zeros(num_items, stored.dim)
        if stored.has_kernels:
            row_splits, touched, values = stored.arrays()
            require_items(touched, num_items)
            _require_one_a_user(weights, len(self))
            factors = self.__dict__.get("factors", items.new_ones(len(self)))
            shares = _array(weights.to(items.dtype))
            sparse_sums.add_weighted(items.numpy(), row_splits, touched, values, _array(factors), shares)
            return Gradient(items, weights @ self.shared, float(weights @ self.l2_share))
        row_weights = weights[self.row_owner].unsqueeze(1)
        # A block of rows at a time: the weighted rows stay in the cache instead of becoming a second (r, d).
        for block in (slice(start, start + BLOCK) for start in range(0, len(self.items), BLOCK)):
            items.index_add_(0, self.items[block], self.rows[block] * row_weights[block])
        return Gradient(items, weights @ self.shared, float(weights @ self.l2_share))

    @property
    def largest(self) -> Tensor:
        """(n,) the largest absolute value in each user's item rows, NaN where one of them is; 0 for no rows."""
        return self.extent[0]

    @cached_property
    def extent(self) -> tuple[Tensor, Tensor]:
        """Of each user's item rows the largest absolute value (n,) and Σ_i ‖g_i‖² (n,), found in one pass."""
        if self.has_kernels:
            row_splits, _, rows = self.arrays()
            bits, summed = sparse_sums.extents(row_splits, rows, rows.view(f"i{rows.itemsize}"))
            return torch.from_numpy(bits.view(rows.dtype)), torch.from_numpy(summed)
        squares = self._sum_rows(torch.linalg.vector_norm(self.rows, dim=1).square())
        largest = self.rows.abs().amax(1) if self.rows.numel() else self.rows.new_zeros(len(self.rows))
        return squares.new_zeros(len(self)).scatter_reduce_(0, self.row_owner, largest, "amax"), squares

    @property
    def has_kernels(self) -> bool:
        """Whether the compiled loops of ``models.kernels`` take these rows; torch sums all others."""
        return has_kernels(self.rows)

    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Offsets, items and rows, as the kernels take them.

        Raises ``ValueError`` for offsets that do not divide the rows among the users.
        """
        row_splits = _array(self.row_splits)
        if len(self.items) != len(self.rows):
            raise ValueError(f"{len(self.items)} items for {len(self.rows)} rows.")
        require_splits(row_splits, len(self), len(self.rows))
        return row_splits, _array(self.items), _array(self.rows)

    def _sum_rows(self, values: Tensor) -> Tensor:
        return values.new_zeros(len(self)).index_add_(0, self.row_owner, values)


def _array(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.detach().contiguous().numpy()
    return array


def _require_one_a_user(values: Tensor, users: int) -> None:
    if values.shape != (users,):
        raise ValueError(f"Numbers of shape {tuple(values.shape)}, expected one for each of {users} users.")


def concat(parts: Sequence[Updates]) -> Updates:
    """The users of all parts, in order. Raises ``ValueError`` for no parts: an empty one has no widths."""
    if not parts:
        raise ValueError("concat needs at least one part.")
    if len(parts) == 1:
        return parts[0]
    joined = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in fields(Updates)
        if field.name != "row_splits"
    }
    row_splits = splits_of(torch.cat([part.row_counts for part in parts]))
    return Updates(row_splits=row_splits, **joined)


def merge(parts: Sequence[Updates]) -> Updates:
    """The users of all parts in ascending order, each row copied once. Raises ``ValueError`` for no parts."""
    if len(parts) <= 1:
        return concat(parts).sorted_by_user()
    return gather(parts, torch.cat([part.users for part in parts]).argsort())


def gather(parts: Sequence[Updates], order: Tensor) -> Updates:
    """The users at the places ``order`` (m,) among those of all parts one after another, each row copied once."""
    joined = {
        name: torch.cat([getattr(part, name) for part in parts])[order]
        for name in ("users", "num_examples", "shared", "l2_share")
    }
    counts = torch.cat([part.row_counts for part in parts])[order]
    ends = torch.tensor([len(part) for part in parts]).cumsum(0)
    owners = torch.searchsorted(ends, order.cpu(), right=True)
    # Neighbours' rows are one stretch of memory, and whole stretches copy faster than rows one by one.
    breaks = ((order.cpu().diff() != 1) | (owners.diff() != 0)).nonzero().flatten() + 1
    firsts, lasts = [0, *breaks.tolist()], [*breaks.tolist(), len(order)]
    splits, stretches = [part.row_splits.tolist() for part in parts], [(0, slice(0))]
    for first, last in zip(firsts, lasts, strict=True):
        if first < last:
            owner = int(owners[first])
            start = int(order[first] - ends[owner]) + len(parts[owner])
            stretches.append((owner, slice(splits[owner][start], splits[owner][start + last - first])))
    for name in ("items", "rows"):
        joined[name] = torch.cat([getattr(parts[owner], name)[stretch] for owner, stretch in stretches])
    gathered = Updates(row_splits=splits_of(counts), **joined)
    if all("extent" in vars(part) for part in parts):
        # What was measured of a user's rows stays true of their copies.
        measured = zip(*(part.extent for part in parts), strict=True)
        gathered.__dict__["extent"] = tuple(torch.cat(found)[order] for found in measured)
    return gathered


def make_updates(
    users: Tensor,
    num_examples: Tensor,
    row_splits: Tensor,
    items: Tensor,
    rows: Tensor,
    shared: Tensor | None = None,
) -> Updates:
    """Updates as a client makes them: with p = 0 unless ``shared`` is given, and whole L2 shares."""
    shared = rows.new_zeros(len(users), 0) if shared is None else shared
    return Updates(users, num_examples, row_splits, items, rows, shared, shared.new_ones(len(users)))


def splits_of(counts: Tensor) -> Tensor:
    """(n,) counts to (n+1,) offsets."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def ragged_positions(starts: Tensor, counts: Tensor, splits: Tensor | None = None) -> Tensor:
    """The positions starts[k], …, starts[k]+counts[k]-1 of all k, one after another."""
    splits = splits_of(counts) if splits is None else splits
    total = int(splits[-1])
    shift = (starts - splits[:-1]).repeat_interleave(counts, output_size=total)
    return torch.arange(total, device=starts.device) + shift
