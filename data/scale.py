"""A data set for measuring time and memory: many users, many items, few interactions each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import draws
from data.interactions import Interactions, splits_of
from data.texts import Texts
from draws import Stream

CHUNK_USERS = 50_000
GENRE_ITEMS = 100
SHORTEST, LONGEST = 5, 45


def scale(num_users: int = 1_000_000, num_items: int = 200_000, seed: int = 0, name: str = "scale") -> Interactions:
    """Users with 5 to 44 interactions, 15 on average, moving in time from one favourite genre to another.

    A genre is 100 neighbouring items; four of five interactions come from the genre of the time, the
    others from anywhere, popular items more often in both. An item may come again. Beside the result,
    memory is that of ``CHUNK_USERS`` users. The same arguments give the same data.
    """
    lengths, items, times = [], [], []
    for chunk, first in enumerate(range(0, num_users, CHUNK_USERS)):
        generator = draws.generator(seed, Stream.SYNTHETIC, user=chunk)
        counts, choices = _chunk(generator, min(CHUNK_USERS, num_users - first), num_items)
        lengths.append(counts)
        items.append(choices)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        times.append((np.arange(len(choices)) - starts).astype(np.int32))
    ids = Texts.of_array(np.arange(num_users)), Texts.of_array(np.arange(num_items))
    return Interactions(name, *ids, splits_of(np.concatenate(lengths)), np.concatenate(items), np.concatenate(times))


def _chunk(
    generator: np.random.Generator, num_users: int, num_items: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    # Powers of a uniform number, by multiplication alone: skewed, and the same to the bit on every machine.
    counts = SHORTEST + ((LONGEST - SHORTEST) * _cube(generator.random(num_users))).astype(np.int64)
    total = int(counts.sum())
    progress = (np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)) / np.repeat(counts, counts)
    favourites = np.repeat(generator.integers(-(-num_items // GENRE_ITEMS), size=(num_users, 2)), counts, axis=0)
    genre = np.where(generator.random(total) < progress, favourites[:, 1], favourites[:, 0])
    near = genre * GENRE_ITEMS + (GENRE_ITEMS * np.square(generator.random(total))).astype(np.int64)
    anywhere = (num_items * _cube(generator.random(total))).astype(np.int64)
    choices = np.where(generator.random(total) < 0.8, near, anywhere)
    return counts, np.minimum(choices, num_items - 1).astype(np.int32)


def _cube(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * values * values
