"""Random words that depend on a key and a counter alone, so that any of them can be made at any time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


@compiled
def mixed(word: np.uint64) -> np.uint64:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): a bijection of 64-bit words that mixes all bits."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@compiled
def user_key(seed: int, stream: int, server_round: int, user: int) -> np.uint64:
    """The 64-bit key of one user's sequence in one round."""
    key = mixed(np.uint64(seed) + GOLDEN)
    key = mixed(key + GOLDEN + np.uint64(stream))
    key = mixed(key + GOLDEN + np.uint64(server_round))
    return mixed(key + GOLDEN + np.uint64(user))


@compiled
def user_keys(seed: int, stream: int, server_round: int, users: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(n,) the users' keys in one stream and round."""
    keys = np.empty(len(users), np.uint64)
    for k in range(len(users)):
        keys[k] = user_key(seed, stream, server_round, users[k])
    return keys


@compiled
def word(key: np.uint64, index: int) -> np.uint64:
    """The 64-bit word ``index`` of a key's sequence, as SplitMix64 has it."""
    return mixed(key + (np.uint64(index) + np.uint64(1)) * GOLDEN)


@compiled
def below(drawn: np.uint64, count: int) -> int:
    """A 64-bit word to an integer in [0, count), uniform to 2⁻⁵³."""
    return int(np.float64(drawn >> np.uint64(11)) * 2.0**-53 * count)


@compiled
def short_word(low: np.uint32, high: np.uint32, counter: np.uint32) -> np.uint32:
    """The 32-bit word ``counter`` of a key with these halves: Wellons' "lowbias32" (2018), half a key a multiplication.

    All are uint32, and what numba widens is narrowed at once: only then is the loop around it vectorised.
    """
    folded = np.uint32(counter ^ low)
    folded = np.uint32(folded ^ (folded >> np.uint32(16)))
    folded = np.uint32(np.uint32(folded * FIRST) + high)
    folded = np.uint32(folded ^ (folded >> np.uint32(15)))
    folded = np.uint32(folded * SECOND)
    return np.uint32(folded ^ (folded >> np.uint32(16)))
