"""Independent pieces of a rule's work on several cores.

Torch splits one operation among its threads, which does not pay for pieces that fit a core's cache. Here each
thread takes whole pieces. What comes out does not depend on how many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_pool: list[ThreadPoolExecutor] = []


def use_threads(count: int) -> None:
    """How many threads work on pieces from now on; one until this is called."""
    while _pool:
        _pool.pop().shutdown(wait=False)
    if count > 1:
        _pool.append(_threads(count))


def _threads(count: int) -> ThreadPoolExecutor:
    """A pool whose threads do not split their operations again, as each would if it were alone.

    What a thread sets also holds for all threads that begin later. So the pool's threads all begin here, and this
    thread, at the end, sets what held before.
    """
    before = torch.get_num_threads()
    begun = Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        # Torch asks what holds for all when a thread first does something with it, and not again.
        torch.get_num_threads()
        begun.wait()

    pool = ThreadPoolExecutor(count, "rules", begin)
    for _ in range(count):
        pool.submit(int)
    begun.wait()
    torch.set_num_threads(before)
    return pool


def side_by_side(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
    """The results of ``work`` on each piece, in order. Raises what ``work`` raised first."""
    return list(_pool[0].map(work, pieces) if _pool else map(work, pieces))
