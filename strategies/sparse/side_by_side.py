"""Independent pieces of a rule's work on several cores.

Torch splits one operation among its threads, which does not pay for pieces that fit a core's cache. Here each
thread takes whole pieces. What comes out does not depend on how many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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
        # Each of them would split its operations again, as if it were alone.
        _pool.append(ThreadPoolExecutor(count, "rules", torch.set_num_threads, (1,)))


def side_by_side(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
    """The results of ``work`` on each piece, in order. Raises what ``work`` raised first."""
    return list(_pool[0].map(work, pieces) if _pool else map(work, pieces))
