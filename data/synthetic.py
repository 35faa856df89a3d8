"""The embedded data set: made in a second from a seed, with taste, skewed popularity and order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import draws
from data.interactions import Interactions, splits_of
from data.texts import Texts
from draws import Stream

GRID = 1 << 16
"""Logits are counted in steps of 1/GRID: sums of whole numbers choose the same items on every machine."""


@dataclass(frozen=True)
class World:
    """How the users of the synthetic data set choose.

    Item i's logit is the sum of its popularity (Zipf with exponent ``skew``), ``taste`` if its genre is all
    that the user loves and less if it is one of several, ``closeness`` times how near the item is to the
    user's place in the genre, and ``continuation`` if it shares the genre of the item chosen last.
    ``mean_length`` and ``spread``: mean and log-standard deviation of the number of choices.
    """

    num_users: int = 1_000
    num_items: int = 800
    num_genres: int = 24
    mean_length: float = 40.0
    spread: float = 0.5
    taste: float = 10.0
    closeness: float = 1.0
    skew: float = 1.0
    continuation: float = 1.0


def synthetic(world: World | None = None, seed: int = 0) -> Interactions:
    """Interactions of users who choose, one after another, among the items that they have not had yet.

    Every choice is a draw from a multinomial logit (McFadden 1974). The same arguments give the same data.
    """
    world = world or World()
    generator = draws.generator(seed, Stream.SYNTHETIC)
    genre = generator.integers(world.num_genres, size=world.num_items)
    logits = _logits(world, generator, genre)
    chosen = _choose(generator, logits, genre, round(world.continuation * GRID), _lengths(world, generator))
    # The choices were made by the busiest user first; who is busy shall not show in the index.
    chosen = chosen[generator.permutation(world.num_users)]
    real = chosen >= 0
    times = np.broadcast_to(np.arange(chosen.shape[1]), chosen.shape)[real]
    ids = Texts.of_array(np.arange(world.num_users)), Texts.of_array(np.arange(world.num_items))
    return Interactions("synthetic", *ids, splits_of(real.sum(1)), chosen[real], times)


def _logits(world: World, generator: np.random.Generator, genre: NDArray[np.int64]) -> NDArray[np.int32]:
    popularity = -world.skew * np.log(generator.permutation(world.num_items) + 1)
    love = generator.dirichlet(np.full(world.num_genres, 0.15), world.num_users)
    love = 1 + np.log(love + 1e-3) / np.log(1e3)
    place = generator.normal(size=(world.num_users, world.num_genres, 2))[:, genre]
    nearness = (place * generator.normal(size=(world.num_items, 2))).sum(2)
    return _on_grid(popularity + world.taste * love[:, genre] + world.closeness * nearness)


def _lengths(world: World, generator: np.random.Generator) -> NDArray[np.int64]:
    """(U,) descending."""
    lengths = generator.lognormal(np.log(world.mean_length) - world.spread**2 / 2, world.spread, world.num_users)
    return np.sort(np.clip(lengths, 10, world.num_items // 3).astype(np.int64))[::-1]


def _choose(
    generator: np.random.Generator,
    logits: NDArray[np.int32],
    genre: NDArray[np.int64],
    continuation: int,
    lengths: NDArray[np.int64],
) -> NDArray[np.int32]:
    """(U, longest) each user's items in the order of choice, -1 after the last."""
    num_users, num_items = logits.shape
    quantiles = (np.arange(GRID) + 0.5) / GRID
    # Gumbel's trick: the item with the largest logit plus noise is a draw from the softmax.
    gumbel = _on_grid(-np.log(-np.log(quantiles)))
    same_genre = (genre[:, None] == genre) * np.int32(continuation)
    chosen = np.full((num_users, lengths[0]), -1, np.int32)
    for position in range(lengths[0]):
        active = int((lengths > position).sum())
        noisy = logits[:active] + gumbel[generator.integers(GRID, size=(active, num_items), dtype=np.uint16)]
        if position:
            noisy += same_genre[chosen[:active, position - 1]]
        choice = noisy.argmax(1)
        chosen[:active, position] = choice
        logits[np.arange(active), choice] = np.iinfo(np.int32).min // 2
    return chosen


def _on_grid(values: NDArray[Any]) -> NDArray[np.int32]:
    steps: NDArray[np.int32] = np.rint(values * GRID).astype(np.int32)
    return steps
