"""Compile every kernel of a run before its clock starts, and say so where that took time."""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from models.kernels import adam, admission, cohort, gram, lloyd, mixing, order, sparse_sums, touched, uniformity
from models.kernels.compiled import CONFIG, LOG, code_folder, compilations


@cache
def prepare() -> int:
    """Load or compile the kernels of 32-bit rows, once a process; returns how many had to be compiled."""
    if CONFIG.DISABLE_JIT:
        LOG.warning(
            "NUMBA_DISABLE_JIT is set: nothing is compiled, and a round takes hundreds of times as long. Unset it."
        )
        return 0
    began, before = time.perf_counter(), compilations()
    folder = code_folder()
    if folder is None or not any(folder.iterdir()):
        LOG.info("Compiling the loops for this machine. This takes a while, and only the first time.")
    for kernels in (_adam, _cohort, _updates, _distances, _order, _lloyd):
        kernels()
    made = compilations() - before
    if made:
        kept = f"kept in {folder}" if folder else "kept in memory"
        LOG.info("Compiled %d loops for this machine in %.1f s; they are %s.", made, time.perf_counter() - began, kept)
    return made


def _adam() -> None:
    value = np.zeros(1, np.float32)
    adam.step(value, value, value, value, 1, 0.1, 0.0, *(np.empty(1, np.float32) for _ in range(3)))
    row = np.zeros((1, 1), np.float32)
    adam.preview(row, row, row, row, np.zeros(1, np.int64), 1, 0.1, 0.0, np.empty((1, 1), np.float32))
    adam.idle(row, row, row, np.zeros(1, np.int64), 1, 0.1, *(np.empty((1, 1), np.float32) for _ in range(3)))


def _cohort() -> None:
    splits, items = np.array([0, 2]), np.array([0, 1])
    table = np.zeros((4, 2), np.float32)
    seen, touched_by = touched.touched_items(splits, items, np.array([[-1, -1]]), len(table))
    histories = cohort.Histories(np.array([0]), splits, items, seen, touched_by)
    task = cohort.Task(0, 1, 1, 13107, 1.0, 2, (5, 6, 7, 8))
    negatives = cohort.negatives_of(histories, task, len(table))
    cohort.cohort_gradients(table, table[:1], histories, task, items, negatives)


def _updates() -> None:
    splits, items, rows = np.array([0, 1]), np.zeros(1, np.int64), np.zeros((1, 1), np.float32)
    weights = np.ones(1, np.float32)
    sparse_sums.add_weighted(np.zeros_like(rows), splits, items, rows, weights, weights)
    sparse_sums.scaled(splits, rows, weights)
    sparse_sums.extents(splits, rows, rows.view(np.int32))
    sparse_sums.inner_products(splits, items, rows, rows)
    sparse_sums.sign_counts(splits, items, rows, rows)
    admission.users_with_bad_items(splits, items, 1)
    index = gram.rows_by_item(splits, items, 1)
    # Krum computes updates that are much alike once more, with 64-bit rows.
    for kind in (np.float32, np.float64):
        gram.gram(*index, rows.astype(kind), 0, 1, 1)


def _distances() -> None:
    rows, places = np.zeros((2, 4), np.float32), np.zeros(1, np.int64)
    uniformity.moved_first(rows, places, rows[:1], rows[0], rows.copy(), np.zeros(2, np.float32))
    uniformity.distances_beyond(np.zeros((1, 2), np.float32), np.zeros(2, np.float32))
    uniformity.distances_without(np.zeros((2, 2), np.float32), np.zeros(2), places)


def _order() -> None:
    rows = np.zeros((1, 1), np.float32)
    order.middle_means(rows[None], 1, 0, 1)
    order.counted_middle_means(rows[None], rows, 1, 0, 1)
    order.means_around_medians(rows[None], 1, 1)
    index = gram.rows_by_item(np.array([0, 1]), np.zeros(1, np.int64), 1)
    mixing.mix(*index, rows, rows, np.zeros((1, 1), np.int64), 0, 1, rows)


def _lloyd() -> None:
    lloyd.lloyd(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32), 0.0, 1.0, 1)
