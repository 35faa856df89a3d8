"""Keep freed memory in the process: giving it back and asking for it again costs more than a rule's arithmetic.

A round's updates are tens of megabytes that live for a few milliseconds. By its defaults the C library returns such
blocks to the system at once, which clears and maps every page anew the next time.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's names for two numbers of mallopt(3)."""

LARGEST_BLOCK = 1 << 25
"""Bytes up to which a block comes out of the heap; glibc accepts no more."""

KEPT = (1 << 31) - 1
"""Bytes at the heap's end that stay."""

ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(KEPT), "MALLOC_MMAP_THRESHOLD_": str(LARGEST_BLOCK)}
"""The same for a process that is about to start."""


def keep_freed_memory() -> None:
    """For this process from now on; nothing where the C library is another one."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
    mallopt(M_TRIM_THRESHOLD, KEPT)
