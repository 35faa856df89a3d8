"""Bytes for another process of this machine, without a copy on its side: anonymous memory that it maps.

Ray's object store costs several messages between processes for each object, some milliseconds a round on two
cores. Linux lets a process open another one's anonymous memory through /proc, as long as that one keeps
it; who has mapped it keeps it alive. Nothing has a name, so nothing is left behind by a process that is killed.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import NamedTuple

ALIGNED = 64
"""Every buffer starts at a multiple of so many bytes, as a reader's vector instructions like it."""


class Place(NamedTuple):
    """Where memory is: a descriptor of a process, the file behind it, and its bytes."""

    process: int
    descriptor: int
    inode: int
    size: int


class HandedMemory:
    """Memory that holds the buffers one after another, open for others to map while this object lives.

    ``spans``: where each buffer starts and how long it is. Raises ``OSError`` where the system has no such memory.
    """

    def __init__(self, buffers: Sequence[bytes | memoryview]) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("This system has no anonymous memory that another process could map.")
        self._descriptor = os.memfd_create("robust-fedrec", os.MFD_CLOEXEC)
        self.spans: list[tuple[int, int]] = []
        end = 0
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            start = -(-end // ALIGNED) * ALIGNED
            end = start + len(view)
            self.spans.append((start, len(view)))
            while view:
                written = os.pwrite(self._descriptor, view, end - len(view))
                view = view[written:]
        size = max(end, 1)
        os.ftruncate(self._descriptor, size)
        self.place = Place(os.getpid(), self._descriptor, os.fstat(self._descriptor).st_ino, size)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def mapped(place: Place) -> memoryview:
    """The memory, read-only, kept until the last view of it is gone.

    Raises ``OSError`` where it is not there (any more): on another machine, or behind a container's wall.
    """
    descriptor = os.open(f"/proc/{place.process}/fd/{place.descriptor}", os.O_RDONLY)
    try:
        found = os.fstat(descriptor)
        if (found.st_ino, found.st_size) != (place.inode, place.size):
            raise OSError(f"Process {place.process} has something else open as {place.descriptor}.")
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return memoryview(mmap.mmap(descriptor, place.size, flags, mmap.PROT_READ))
    finally:
        os.close(descriptor)
