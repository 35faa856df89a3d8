"""Flower's records as plain values that Ray carries cheaply, with large arrays in memory that the other side reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from protocol.arrays import num_bytes, parts_of
from server.grids.handed_memory import HandedMemory, Place

SHARED_FROM = 64 * 1024
"""Bytes from which a record goes through shared memory; a smaller one travels inside its call."""

Packed = dict[str, Any]
"""A record as plain values; arrays as views of their bytes, which Ray puts into shared memory as they are."""


@dataclass(frozen=True)
class Near:
    """For an actor on the server's machine: the number of the exchange, and where the message's large records are."""

    exchange: int
    place: Place | None


def _size(record: ArrayRecord) -> int:
    return sum(map(num_bytes, record.values()))


class Outgoing:
    """The messages of one exchange on their way: each large record is laid out once, however many share it."""

    def __init__(self) -> None:
        self._stored: dict[int, Any] = {}
        self._memory: HandedMemory | None = None
        self._handed: dict[tuple[int, ...], tuple[dict[str, Packed], Place | None]] = {}

    def stored(self, content: RecordDict) -> tuple[dict[str, Any], None, list[Any]]:
        """For an actor anywhere: the content with numbers in place of large records, and these in the object store."""
        packed: dict[str, Any] = {}
        references: list[Any] = []
        large = _large(content)
        for name, record in content.items():
            if name in large:
                if id(record) not in self._stored:
                    self._stored[id(record)] = ray.put(_pack_record(record))
                packed[name] = len(references)
                references.append(self._stored[id(record)])
            else:
                packed[name] = _pack_record(record)
        return packed, None, references

    def handed(self, content: RecordDict) -> tuple[dict[str, Any], Place | None, list[Any]]:
        """For an actor that can read this process' memory."""
        large = _large(content)
        key = tuple(id(record) for record in large.values())
        if key not in self._handed:
            if self._memory is None:
                self._memory = HandedMemory()
            self._handed[key] = _laid_out(large, self._memory)
        packed, place = self._handed[key]
        return _beside(content, packed), place, []


def handed_over(content: RecordDict, memory: HandedMemory) -> tuple[dict[str, Packed], Place | None]:
    """A reply with its large records in memory to be read."""
    packed, place = _laid_out(_large(content), memory)
    return _beside(content, packed), place


def _beside(content: RecordDict, large: dict[str, Packed]) -> dict[str, Packed]:
    """The whole content, of which the large records are packed already."""
    return {**packed_content((name, record) for name, record in content.items() if name not in large), **large}


def _laid_out(large: Mapping[str, ArrayRecord], memory: HandedMemory) -> tuple[dict[str, Packed], Place | None]:
    """The records with spans in place of their arrays' bytes, and where these are."""
    if not large:
        return {}, None
    place, spans = memory.add([parts_of(array) for record in large.values() for array in record.values()])
    span = iter(spans)
    packed = {
        name: {"arrays": {key: (array.dtype, array.shape, array.stype, next(span)) for key, array in record.items()}}
        for name, record in large.items()
    }
    return packed, place


def _large(content: RecordDict) -> dict[str, ArrayRecord]:
    records = {name: record for name, record in content.items() if isinstance(record, ArrayRecord)}
    return {name: record for name, record in records.items() if _size(record) >= SHARED_FROM}


def packed_content(records: Iterable[tuple[str, Any]]) -> dict[str, Packed]:
    """A message's named records, whatever their size."""
    return {name: _pack_record(record) for name, record in records}


def _pack_record(record: Any) -> Packed:
    if isinstance(record, ArrayRecord):
        arrays = {
            name: (array.dtype, array.shape, array.stype, np.frombuffer(array.data, np.uint8))
            for name, array in record.items()
        }
        return {"arrays": arrays}
    return {"metrics" if isinstance(record, MetricRecord) else "config": dict(record.items())}


def unpacked(content: dict[str, Packed], memory: memoryview | None) -> RecordDict:
    """The records again; ``memory`` holds those that were handed over, without a copy."""
    return RecordDict({name: _unpack_record(packed, memory) for name, packed in content.items()})


def _unpack_record(packed: Packed, memory: memoryview | None) -> Any:
    if "arrays" not in packed:
        return MetricRecord(packed["metrics"]) if "metrics" in packed else ConfigRecord(packed["config"])
    record = ArrayRecord()
    for name, (dtype, shape, stype, values) in packed["arrays"].items():
        array = Array(dtype, shape, stype, b"")
        # A view of shared memory in place of a copy; its readers take any buffer.
        array.data = _bytes(values, memory)
        record[name] = array
    return record


def _bytes(values: Any, memory: memoryview | None) -> Any:
    if isinstance(values, np.ndarray):
        return values.data
    start, length = values
    assert memory is not None
    return memory[start : start + length]
