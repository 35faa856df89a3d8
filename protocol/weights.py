"""The arrays of any Flower app as updates: what a client returns less what it was sent, and back."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from protocol.admission import LARGEST_VALUE, UnreadableError
from protocol.requests import GlobalModel

Weights = Mapping[str, NDArray[Any]]

LONGEST_HEADER = 10_000
"""Bytes of an array's header; NumPy writes 128 for usual arrays."""


@dataclass(frozen=True)
class Layout:
    """Which arrays a model has, from the global ones.

    ``shapes`` and ``kinds`` (dtypes) by name. ``item_table``: the array (num_items, d) whose rows are items, "" for
    none. Arrays of whole numbers (BatchNorm's counters) are not part of an update.
    """

    shapes: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, np.dtype[Any]]
    item_table: str = ""

    @staticmethod
    def of(weights: Weights, item_table: str = "") -> Layout:
        """The layout of the global arrays. Raises ``ValueError`` where there is no such table of items."""
        if item_table and (item_table not in weights or weights[item_table].ndim != 2):
            raise ValueError(
                f"item_table = {item_table!r}: expected the name of an array with two dimensions, one of "
                + ", ".join(name for name, array in weights.items() if array.ndim == 2)
                + "."
            )
        shapes = {name: array.shape for name, array in weights.items()}
        return Layout(shapes, {name: array.dtype for name, array in weights.items()}, item_table)

    @property
    def dtype(self) -> torch.dtype:
        """What differences are computed in: 32-bit floats unless an array has longer ones."""
        return torch.float64 if any(kind == np.float64 for kind in self.kinds.values()) else torch.float32

    @property
    def others(self) -> list[str]:
        """The arrays of real numbers beside the table, in order: an update's ``shared`` part."""
        return [name for name, kind in self.kinds.items() if kind.kind == "f" and name != self.item_table]

    @property
    def counters(self) -> list[str]:
        """The arrays of whole numbers."""
        return [name for name, kind in self.kinds.items() if kind.kind != "f"]

    def read(self, record: ArrayRecord) -> Weights:
        """A client's arrays. Raises ``UnreadableError`` for other kinds or shapes, and for what is not finite."""
        if set(record) != set(self.shapes):
            raise UnreadableError("other arrays than the model's")
        found = {name: self._array(name, record[name]) for name in self.shapes}
        for name, values in found.items():
            if values.dtype.kind == "f" and values.size and not float(np.abs(values).max()) <= LARGEST_VALUE:
                raise UnreadableError(f"array {name!r}: a value that is not finite or too large")
        return found

    def in_kind(self, record: ArrayRecord | None) -> ArrayRecord | None:
        """The same arrays in the model's kinds: Flower's averages of whole numbers are not whole."""
        if record is None:
            return None
        made = ArrayRecord()
        for name, array in record.items():
            values, kind = array.numpy(), self.kinds[name]
            whole = kind.kind != "f" and values.dtype.kind == "f"
            made[name] = (
                array if values.dtype == kind else Array(np.asarray(np.rint(values) if whole else values, kind))
            )
        return made

    def _array(self, name: str, array: Array) -> NDArray[Any]:
        shape, kind = self.shapes[name], self.kinds[name]
        expected = math.prod(shape) * kind.itemsize
        data = array.data
        # The bytes are counted first: a header may promise any size, and NumPy would reserve it.
        if not expected <= len(data) <= expected + LONGEST_HEADER:
            raise UnreadableError(f"array {name!r}: {len(data)} bytes where the model's has {expected}")
        try:
            stream = io.BytesIO(data)
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            found = header(stream, max_header_size=LONGEST_HEADER)
        except Exception as error:
            raise UnreadableError(f"array {name!r}: bytes that are not a NumPy array") from error
        if found[0] != shape or found[2] != kind:
            raise UnreadableError(f"array {name!r}: shape {found[0]} of {found[2]}, expected {shape} of {kind}")
        if len(data) - stream.tell() != expected:
            raise UnreadableError(f"array {name!r}: {len(data)} bytes for the shape {shape}")
        values = np.frombuffer(data, kind, offset=stream.tell())
        return values.reshape(shape, order="F" if found[1] else "C")

    def model(self, weights: Weights) -> GlobalModel:
        """Weights as the two parts of an update: ``items`` (num_items, d), with d = 0 for none, and ``shared`` (p,)."""
        table = weights[self.item_table] if self.item_table else np.empty((0, 0), np.float32)
        parts = [torch.from_numpy(weights[name].ravel().astype(np.float64)) for name in self.others]
        shared = torch.cat(parts) if parts else torch.empty(0)
        return GlobalModel(torch.from_numpy(table.astype(np.float64)).to(self.dtype), shared.to(self.dtype))

    def moved(self, weights: Weights, items: Tensor, shared: Tensor, counters: Weights) -> ArrayRecord:
        """The weights plus a dense update, ``items`` (num_items, d) and ``shared`` (p,), with these counters."""
        parts = torch.split(shared, [math.prod(self.shapes[name]) for name in self.others])
        changes = dict(zip(self.others, parts, strict=True))
        if self.item_table:
            changes[self.item_table] = items
        made = {}
        for name, shape in self.shapes.items():
            if name in changes:
                change = changes[name].cpu().double().numpy().reshape(shape)
                made[name] = Array(np.asarray(weights[name] + change).astype(self.kinds[name]))
            else:
                made[name] = Array(np.asarray(counters[name]))
        return ArrayRecord(made)
