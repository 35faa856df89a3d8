"""Bytes for another process of this machine: anonymous memory that it reads with one copy.

Ray's object store costs several messages between processes for each object, some milliseconds a round on two
cores. Linux lets a process open another one's anonymous memory through /proc as long as that one keeps
it. Nothing has a name, so nothing is left behind by a process that is killed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ALIGNED = 64
"""Every buffer starts at a multiple of so many bytes, as a reader's vector instructions like it."""

Spans = list[tuple[int, int]]
"""Where each of some buffers starts, and its bytes."""


class Place(NamedTuple):
    """Where bytes are: a descriptor of a process, the file behind it, the first byte and how many."""

    process: int
    descriptor: int
    inode: int
    start: int
    size: int


class HandedMemory:
    """Memory to hand over, open for others to read while this object lives.

    Raises ``OSError`` where the system has no such memory.
    """

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("This system has no anonymous memory that another process could read.")
        self._descriptor = os.memfd_create("robust-fedrec", os.MFD_CLOEXEC)
        self._inode = os.fstat(self._descriptor).st_ino
        self._end = 0

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def clear(self) -> None:
        """Write the next buffers over what was handed so far; its pages stay, which is what makes this fast."""
        self._end = 0

    def add(self, buffers: Sequence[Sequence[bytes | memoryview]]) -> tuple[Place, Spans]:
        """Write the buffers, each in parts, after what is there: where they are as a whole, and each one's place."""
        first, spans = self._end, []
        for parts in buffers:
            start = self._end
            for part in parts:
                view = memoryview(part).cast("B")
                after = self._end + len(view)
                while view:
                    view = view[os.pwrite(self._descriptor, view, after - len(view)) :]
                self._end = after
            spans.append((start - first, self._end - start))
            self._end = -(-self._end // ALIGNED) * ALIGNED
        size = sum(spans[-1]) if spans else 0
        return Place(os.getpid(), self._descriptor, self._inode, first, size), spans


def read(place: Place) -> memoryview:
    """A copy of the bytes.

    Raises ``OSError`` where they are not there (any more): on another machine, or behind a container's wall.
    """
    descriptor = os.open(f"/proc/{place.process}/fd/{place.descriptor}", os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_ino != place.inode:
            raise OSError(f"Process {place.process} has something else open as {place.descriptor}.")
        content = np.empty(place.size, np.uint8).data
        done = 0
        while done < place.size:
            count = os.preadv(descriptor, [content[done:]], place.start + done)
            if not count:
                raise OSError(f"Process {place.process} has fewer bytes there than it said.")
            done += count
        return content.toreadonly()
    finally:
        os.close(descriptor)
