"""The updates of a cohort of matrix factorization: from histories to gradients in one call each for draws and sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.kernels.bounds import require_items, require_splits
from models.kernels.bpr import add_bpr
from models.kernels.compiled import compiled
from models.kernels.contrastive import add_contrastive, draw_contrastive
from models.kernels.hashing import user_keys
from models.kernels.negatives import draw_negatives
from models.kernels.touched import touched_rows

Ints = NDArray[np.int64]
Matrix = NDArray[np.floating]


@dataclass(frozen=True)
class Histories:
    """The training items of n users, and what else they touched.

    ``users`` (n,) population indexes; ``splits`` (n+1,) and ``items`` (N,): user k trains on
    ``items[splits[k]:splits[k+1]]``. ``touched_splits`` (n+1,) and ``touched``: the distinct items of each user in
    training, validation and test, ascending.
    """

    users: Ints
    splits: Ints
    items: Ints
    touched_splits: Ints
    touched: Ints


@dataclass(frozen=True)
class Task:
    """What is drawn and summed: the loss and the names of its random streams.

    ``dropped``: dropout's probability in parts of 65,536. ``negatives_round``: 0 where negatives are drawn once
    for the run. ``contrastive_weight`` 0: without UNION's task.
    """

    seed: int
    server_round: int
    negatives_round: int
    dropped: int
    contrastive_weight: float
    contrastive_negatives: int
    streams: tuple[int, int, int, int]
    """Of negatives, dropout, the contrastive task, and its dropout."""


@dataclass(frozen=True)
class CohortGradients:
    """Per-user gradients: ``row_splits`` (n+1,), ``items`` (r,), ``rows`` (r, d), ``vectors`` (n, d), ``losses``."""

    row_splits: Ints
    items: Ints
    rows: Matrix
    vectors: Matrix
    losses: Matrix


def negatives_of(histories: Histories, task: Task, num_items: int) -> Ints:
    """(N,) for each training item one that its user never touched. Raises ``ValueError`` where nothing is left."""
    require_untouched(histories, num_items)
    return draw_negatives(
        task.seed,
        task.streams[0],
        task.negatives_round,
        histories.users,
        histories.splits,
        histories.touched_splits,
        histories.touched,
        num_items,
    )


def examples_of(histories: Histories, task: Task, num_items: int) -> tuple[Ints, Ints]:
    """The contrastive task's examples: see ``draw_contrastive``. Raises ``ValueError`` where nothing is left."""
    require_untouched(histories, num_items)
    return draw_contrastive(
        user_keys(task.seed, task.streams[2], task.server_round, histories.users),
        histories.splits,
        histories.items,
        histories.touched_splits,
        histories.touched,
        num_items,
        task.contrastive_negatives,
    )


def require_untouched(histories: Histories, num_items: int) -> None:
    """Raise ``ValueError`` where a user with training items touched every item."""
    require_items(histories.touched, num_items)
    saturated = (np.diff(histories.touched_splits) >= num_items) & (np.diff(histories.splits) > 0)
    if saturated.any():
        user = histories.users[saturated.argmax()]
        raise ValueError(f"User {user} has touched every item: no negative is left.")


def cohort_gradients(
    table: Matrix, vectors: Matrix, histories: Histories, task: Task, positives: Ints, negatives: Ints
) -> CohortGradients:
    """∂L_u/∂E and ∂L_u/∂p_u of every user u, as ``models.recommenders.mf.cohort_gradient`` defines them.

    ``table`` (num_items, d), ``vectors`` (n, d), both contiguous; ``positives`` and ``negatives`` (N,): the pairs.
    A user's numbers depend on (seed, round, user) and its own history alone, to the bit. Raises ``IndexError`` for an
    item outside the table, and ``ValueError`` for pairs or vectors of another number.
    """
    require_splits(histories.splits, len(vectors), len(positives))
    require_splits(histories.splits, len(histories.users), len(negatives))
    require_items(positives, len(table))
    require_items(negatives, len(table))
    if vectors.shape[1] != table.shape[1]:
        raise ValueError(f"The vectors have {vectors.shape[1]} numbers, the table's rows {table.shape[1]}.")
    count = len(histories.users)
    contrastive = task.contrastive_weight != 0
    if contrastive:
        task_splits, drawn = examples_of(histories, task, len(table))
    else:
        task_splits, drawn = np.zeros(count + 1, np.int64), np.empty((0, 2), np.int64)
    row_splits, items = touched_rows(histories.splits, positives, negatives, task_splits, drawn, len(table))
    rows = np.empty((len(items), table.shape[1]), table.dtype)
    vector_gradients = np.zeros_like(vectors)
    losses = np.empty(count, table.dtype)
    bpr_keys = user_keys(task.seed, task.streams[1], task.server_round, histories.users)
    task_keys = user_keys(task.seed, task.streams[3], task.server_round, histories.users)
    add_users(
        table,
        vectors,
        (bpr_keys, task_keys),
        task.dropped,
        task.contrastive_weight,
        (histories.splits, positives, negatives),
        (task_splits, drawn),
        (row_splits, items, rows),
        vector_gradients,
        losses,
    )
    return CohortGradients(row_splits, items, rows, vector_gradients, losses)


@compiled
def add_users(
    table: Matrix,
    vectors: Matrix,
    keys: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    dropped: int,
    weight: float,
    pairs: tuple[Ints, Ints, Ints],
    examples: tuple[Ints, Ints],
    updates: tuple[Ints, Ints, Matrix],
    vector_gradients: Matrix,
    losses: NDArray[np.floating],
) -> None:
    """Fill in each user's rows, gradient (n, d) of its vector, and loss (n,).

    ``keys``: of dropout in the pairs and in the task; ``pairs``: offsets, positives, negatives; ``examples`` of the
    contrastive task: offsets, items (M, w); ``updates``: offsets, items, rows.
    """
    splits, positives, negatives = pairs
    task_splits, drawn = examples
    row_splits, items, rows = updates
    place = np.empty(len(table), np.int64)
    for k in range(len(vectors)):
        for row in range(row_splits[k], row_splits[k + 1]):
            place[items[row]] = row
        # One user's rows at a time: they are in the cache when its examples add to them in no order.
        rows[row_splits[k] : row_splits[k + 1]] = 0
        own = slice(splits[k], splits[k + 1])
        loss = add_bpr(
            table, vectors[k], keys[0][k], dropped, positives[own], negatives[own], place, rows, vector_gradients[k]
        )
        if task_splits[k] < task_splits[k + 1]:
            own_task = drawn[task_splits[k] : task_splits[k + 1]]
            loss += add_contrastive(table, keys[1][k], dropped, weight, own_task, place, rows)
        losses[k] = loss
