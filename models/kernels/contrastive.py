"""UNION's contrastive task on a client (Eq. 4): items of one user attract, other items repel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.kernels.compiled import compiled
from models.kernels.dropout import dropout_factors
from models.kernels.hashing import below, word
from models.kernels.negatives import draw_untouched
from models.kernels.products import inner

Ints = NDArray[np.int64]
Matrix = NDArray[np.floating]


@compiled
def draw_contrastive(
    keys: NDArray[np.uint64],
    splits: Ints,
    items: Ints,
    touched_splits: Ints,
    touched: Ints,
    num_items: int,
    negatives: int,
) -> tuple[Ints, Ints]:
    """Each example's anchor, positive and ``negatives``: offsets (n+1,) and items (M, 2 + negatives).

    The positive is another item of the same user, whichever of its examples, each as likely; a user with a single
    item, however often, skips the task. Negatives are items that the user never touched.
    """
    count = len(splits) - 1
    offsets = np.zeros(count + 1, np.int64)
    drawn = np.empty((splits[-1], 2 + negatives), np.int64)
    own_negatives = np.empty(splits[-1] * negatives, np.int64)
    listed = np.empty(num_items, np.int64)
    done = 0
    for k in range(count):
        own = items[splits[k] : splits[k + 1]]
        examples = len(own)
        ordered = np.sort(own)
        if examples and ordered[0] != ordered[-1]:
            some = own_negatives[: examples * negatives]
            draw_untouched(
                some, keys[k], examples, touched[touched_splits[k] : touched_splits[k + 1]], num_items, listed
            )
            for m in range(examples):
                # Equal items stand together in a circle: the draw starts behind the last of the anchor's own.
                first = np.searchsorted(ordered, own[m])
                behind = first
                while behind < examples and ordered[behind] == own[m]:
                    behind += 1
                step = below(word(keys[k], m), examples - (behind - first))
                drawn[done, 0] = own[m]
                drawn[done, 1] = ordered[(behind + step) % examples]
                for j in range(negatives):
                    drawn[done, 2 + j] = some[m * negatives + j]
                done += 1
        offsets[k + 1] = done
    return offsets, drawn[:done]


@compiled
def add_contrastive(
    table: Matrix, key: np.uint64, dropped: int, weight: float, drawn: Ints, place: Ints, rows: Matrix
) -> float:
    """Add one user's α·∂L_CL/∂E to ``rows``; returns α·L_CL, for α = ``weight``.

    L_CL = −(1/n) Σ_i ln( exp(e_i·e_i⁺) / (exp(e_i·e_i⁺) + Σ exp(e_i·e_i⁻)) ), on vectors after dropout; ``drawn``
    (n, w) are the examples: an anchor, a positive, negatives. Item i's row is ``place[i]``.
    """
    dim, kind = table.shape[1], table.dtype.type
    examples, width = drawn.shape
    factors = np.ones((width, dim), table.dtype)
    vectors = np.empty((width, dim), table.dtype)
    by_anchor = np.empty(dim, table.dtype)
    logits = np.empty(width - 1)
    share = weight / max(examples, 1)
    loss = 0.0
    for example in range(examples):
        chosen = drawn[example]
        for j in range(width):
            if dropped:
                dropout_factors(factors[j], key, example * width + j, dropped)
            vector, factor, of_item = vectors[j], factors[j], table[chosen[j]]
            for c in range(dim):
                vector[c] = of_item[c] * factor[c]
        anchor = vectors[0]
        for j in range(1, width):
            logits[j - 1] = inner(anchor, vectors[j])
        largest = logits.max()
        total = 0.0
        for j in range(width - 1):
            total += math.exp(logits[j] - largest)
        loss -= share * (logits[0] - largest - math.log(total))
        by_anchor[:] = 0
        for j in range(1, width):
            probability = math.exp(logits[j - 1] - largest) / total
            slope = kind(share * (probability - 1.0 if j == 1 else probability))
            vector, factor, by_other = vectors[j], factors[j], rows[place[chosen[j]]]
            for c in range(dim):
                by_anchor[c] += slope * vector[c]
            for c in range(dim):
                by_other[c] += slope * anchor[c] * factor[c]
        factor, by_own = factors[0], rows[place[chosen[0]]]
        for c in range(dim):
            by_own[c] += by_anchor[c] * factor[c]
    return loss
