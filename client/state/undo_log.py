"""What stood where, before each round's step overwrote it: makes a step all or nothing, and rounds undoable.

The log is a folder of segments named by their first round. A record is written before its step, and a mark
after it: a record without its mark belongs to a step that its process did not survive. Going back to a
checkpoint means to put the records of all later rounds back, the newest first; a checkpoint itself costs nothing.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

HEAD = struct.Struct("<Iqq")
"""CRC-32 of all that follows, round, number of users."""

MARK = b"\x01"

SEGMENT_BYTES = 1 << 20
"""A new segment begins after so many, so that what nobody goes back to can be deleted by files."""


class DamagedLogError(RuntimeError):
    """The log cannot be read, so that the state cannot be brought to an earlier round."""


@dataclass(frozen=True)
class Record:
    """What stood at ``places`` (n,) before round ``server_round``: last rounds (n,), values (n, …)."""

    server_round: int
    places: Ints
    last: Ints
    values: NDArray[np.float32]


class UndoLog:
    """The log in ``folder``, for values of the shape ``(n, *shape)``."""

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self._folder = folder
        self._shape = shape
        folder.mkdir(parents=True, exist_ok=True)
        self._segments = sorted(folder.glob("*.log"))

    def begin(self, record: Record) -> None:
        """Write a record before its step. Raises ``OSError``, and leaves the log as it was, where it cannot."""
        segments, own = self._segments, self._folder / f"{record.server_round:012d}.log"
        # A round may step its users in several parts: they stay together in the segment that bears its number.
        begun = not segments or (segments[-1].stat().st_size >= SEGMENT_BYTES and segments[-1] != own)
        if begun:
            segments.append(own)
        body = HEAD.pack(0, record.server_round, len(record.places))[4:] + b"".join(
            [record.places.tobytes(), record.last.tobytes(), record.values.tobytes()]
        )
        try:
            _append(segments[-1], zlib.crc32(body).to_bytes(4, "little") + body)
        except OSError:
            if begun:
                segments.pop().unlink(missing_ok=True)
            raise

    def finish(self) -> None:
        """Mark the last record's step as done."""
        _append(self._segments[-1], MARK)

    def unfinished(self) -> Record | None:
        """The last record, where its step was not finished; a record that was not written whole is dropped."""
        if not self._segments:
            return None
        entries = list(self._read(self._segments[-1], last=True))
        return entries[-1][0] if entries and not entries[-1][2] else None

    def newest(self) -> int:
        """The round of the last record, 0 without any."""
        for segment in reversed(self._segments):
            entries = list(self._read(segment, last=segment == self._segments[-1]))
            if entries:
                return entries[-1][0].server_round
        return 0

    def newer_than(self, server_round: int) -> Iterator[Record]:
        """The records of later rounds, the newest first. Raises ``DamagedLogError``."""
        for segment in reversed(self._segments):
            entries = list(self._read(segment, last=segment == self._segments[-1]))
            later = [record for record, _, _ in entries if record.server_round > server_round]
            yield from reversed(later)
            if len(later) < len(entries):
                return

    def cut(self, server_round: int) -> None:
        """Forget the records of later rounds, the newest first, so that a crash in between leaves no gap."""
        while self._segments:
            segment = self._segments[-1]
            entries = list(self._read(segment, last=True))
            later = [start for record, start, _ in entries if record.server_round > server_round]
            # One without records is what a crash in its first write has left.
            if entries and not later:
                return
            if later and later[0] > 0:
                os.truncate(segment, later[0])
                return
            segment.unlink()
            self._segments.pop()

    def prune(self, keep_from: int) -> None:
        """Delete the segments that nobody needs who goes back no further than to the end of round ``keep_from``."""
        while len(self._segments) > 1 and int(self._segments[1].stem) <= keep_from + 1:
            self._segments.pop(0).unlink()

    def _read(self, segment: Path, *, last: bool) -> Iterator[tuple[Record, int, bool]]:
        """Each record with its start and whether it is marked; ``last``: its end may have been cut off by a crash."""
        content = segment.read_bytes()
        cell = 16 + 4 * int(np.prod(self._shape))
        start = 0
        while start < len(content):
            if len(content) - start < HEAD.size:
                break
            crc, server_round, count = HEAD.unpack_from(content, start)
            end = start + HEAD.size + count * cell
            if not 0 <= count <= len(content) or end > len(content):
                break
            body = memoryview(content)[start + 4 : end]
            if zlib.crc32(body) != crc:
                raise DamagedLogError(f"{segment} is damaged at byte {start}: its rounds cannot be undone.")
            values = start + HEAD.size + 16 * count
            record = Record(
                server_round,
                np.frombuffer(content, np.int64, count, start + HEAD.size),
                np.frombuffer(content, np.int64, count, start + HEAD.size + 8 * count),
                np.frombuffer(content, np.float32, (end - values) // 4, values).reshape(count, *self._shape),
            )
            marked = content[end : end + 1] == MARK
            yield record, start, marked
            start = end + marked
        if start < len(content):
            if not last:
                raise DamagedLogError(f"{segment} ends in the middle of a record: its rounds cannot be undone.")
            # Nothing was overwritten yet when its process died.
            os.truncate(segment, start)


def _append(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
