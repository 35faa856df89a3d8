"""Items that a user never touched, drawn uniformly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled
from models.kernels.hashing import below, user_key, word

Ints = NDArray[np.int64]


@compiled
def untouched_item(rank: int, touched: Ints) -> int:
    """The ``rank``-th item, from 0 on, that is not among the ascending ``touched``.

    It is rank + b, where b touched items lie before it; touched item i has touched[i] − i untouched ones before it.
    """
    low, high = 0, len(touched)
    while low < high:
        middle = (low + high) // 2
        if touched[middle] - middle <= rank:
            low = middle + 1
        else:
            high = middle
    return rank + low


@compiled
def list_untouched(listed: Ints, touched: Ints, num_items: int) -> None:
    """Fill ``listed`` with all items that are not among the ascending ``touched``, in ascending order."""
    at, count = 0, 0
    for item in range(num_items):
        if at < len(touched) and touched[at] == item:
            at += 1
        else:
            listed[count] = item
            count += 1


@compiled
def draw_untouched(drawn: Ints, key: np.uint64, first: int, touched: Ints, num_items: int, listed: Ints) -> None:
    """Fill ``drawn`` (m,) with untouched items by the words first, first + 1, … of a key.

    ``listed`` (num_items,) is scratch: where many are drawn, a list of all untouched items costs less than m searches.
    """
    available = num_items - len(touched)
    if 16 * len(drawn) > num_items:
        list_untouched(listed, touched, num_items)
        for m in range(len(drawn)):
            drawn[m] = listed[below(word(key, first + m), available)]
    else:
        for m in range(len(drawn)):
            drawn[m] = untouched_item(below(word(key, first + m), available), touched)


@compiled
def draw_negatives(
    seed: int,
    stream: int,
    server_round: int,
    users: Ints,
    splits: Ints,
    touched_splits: Ints,
    touched: Ints,
    items: int,
) -> Ints:
    """(N,): for each of the ``splits[k+1] − splits[k]`` examples of user k an item that it never touched.

    ``touched`` of user k are ``touched_splits[k]:touched_splits[k+1]``, ascending and fewer than all ``items``.
    """
    drawn = np.empty(splits[-1], np.int64)
    listed = np.empty(items, np.int64)
    for k in range(len(users)):
        own = touched[touched_splits[k] : touched_splits[k + 1]]
        key = user_key(seed, stream, server_round, users[k])
        draw_untouched(drawn[splits[k] : splits[k + 1]], key, 0, own, items, listed)
    return drawn
