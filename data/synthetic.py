"""The embedded data set: made in a second from a seed, with taste, skewed popularity and order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data import draws
from data.draws import Stream
from data.interactions import Interactions, splits_of

Floats = NDArray[np.float32]


def synthetic(
    num_users: int = 1_000,
    num_items: int = 500,
    num_genres: int = 20,
    mean_length: float = 45.0,
    taste: float = 3.5,
    closeness: float = 1.0,
    skew: float = 0.7,
    continuation: float = 1.0,
    seed: int = 0,
) -> Interactions:
    """Interactions of users who choose, one after another, among the items that they have not had yet.

    Each choice follows a multinomial logit (McFadden 1974): item i's logit is the sum of its popularity
    (Zipf with exponent ``skew``), of the user's love for its genre (``taste`` times a few of the
    ``num_genres``), of the nearness of user and item within the genre (``closeness``), and of
    ``continuation`` where it follows in the genre's own order on the item chosen last. The same arguments
    give the same data on every machine.
    """
    generator = draws.generator(seed, Stream.SYNTHETIC)
    popularity = -skew * np.log(np.arange(1, num_items + 1, dtype=np.float32))
    popularity = generator.permutation(popularity)
    genre = generator.integers(num_genres, size=num_items)
    love = np.log(generator.dirichlet(np.full(num_genres, 0.15), num_users) + 1e-3) / 7 + 1
    spot = generator.normal(size=(num_items, 2)).astype(np.float32)
    home = generator.normal(size=(num_users, num_genres, 2)).astype(np.float32)
    logits = popularity + taste * love.astype(np.float32)[:, genre]
    logits += closeness * np.einsum("uik,ik->ui", home[:, genre], spot)
    lengths = np.clip(generator.lognormal(np.log(mean_length) - 0.125, 0.5, num_users), 10, num_items // 3)
    return _choose(generator, logits, genre, spot, continuation, np.sort(lengths.astype(np.int64))[::-1])


def _choose(
    generator: np.random.Generator,
    logits: Floats,
    genre: NDArray[np.int64],
    spot: Floats,
    continuation: float,
    lengths: NDArray[np.int64],
) -> Interactions:
    num_users, num_items = logits.shape
    chosen = np.full((num_users, lengths[0]), -1, np.int32)
    follows = continuation * (genre[:, None] == genre).astype(np.float32)
    last: NDArray[np.int64] | None = None
    for position in range(lengths[0]):
        active = int((lengths > position).sum())
        # Gumbel's trick: the largest logit plus noise is a draw from the softmax.
        draw = np.maximum(generator.standard_exponential((active, num_items), np.float32), 1e-30)
        noisy = logits[:active] - np.log(draw)
        if last is not None:
            noisy += follows[last[:active]]
        last = noisy.argmax(1)
        logits[np.arange(active), last] = -np.inf
        chosen[:active, position] = last
    order = generator.permutation(num_users)
    chosen, lengths = chosen[order], lengths[order]
    times = np.broadcast_to(np.arange(lengths.max()), chosen.shape)
    real = chosen >= 0
    ids = np.arange(num_users).astype(np.str_), np.arange(num_items).astype(np.str_)
    return Interactions("synthetic", *ids, splits_of(lengths), chosen[real], times[real])
