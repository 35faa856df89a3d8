"""FL-WBC's noise (Sun et al. 2021): where the loss is flat, so that no poisoned direction persists there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

import draws
from draws import Stream
from protocol.updates import Updates
from strategies.rules.fl_wbc import FlWbcOptions


def perturbed(
    updates: Updates, options: FlWbcOptions, seed: int, server_round: int, num_weights: int | None = None
) -> Updates:
    """The updates with Laplace noise on their flat coordinates, drawn from (seed, round, user) alone.

    The paper estimates the Hessian by the difference of two consecutive local steps. Here a user takes none:
    it uploads one gradient g. The estimate is the diagonal of the empirical Fisher matrix, n_u·g² where one
    example touches a row; n_u drops out of the comparison with the user's mean. Item rows and shared
    parameters have means of their own. Rows that a user does not touch are flat as well, but get no noise:
    that would make every upload dense. Of the shared parameters only the first ``num_weights`` count (``None``: all):
    BatchNorm's statistics are no directions of the loss. With noise 0 the updates are what they were.
    """
    width, shared_size = updates.dim, updates.shared.shape[1]
    counts = updates.row_counts * width + shared_size
    words = draws.raw(seed, Stream.LOCAL_NOISE, server_round, updates.users.tolist(), counts.tolist())
    noise = torch.from_numpy(_laplace(draws.uniform(words), options.noise)).to(updates.rows)
    of_rows = torch.ones(len(noise), dtype=torch.bool, device=noise.device)
    shared_places = counts.cumsum(0).unsqueeze(1) - shared_size + torch.arange(shared_size, device=noise.device)
    of_rows[shared_places.flatten()] = False

    squares = updates.rows.square()
    sums = squares.new_zeros(len(updates)).index_add_(0, updates.row_owner, squares.sum(1))
    limits = options.threshold * sums / (updates.row_counts * width).clamp(min=1)
    flat_rows = squares <= limits[updates.row_owner].unsqueeze(1)
    shared_squares = updates.shared.square()
    flat_shared = shared_squares <= options.threshold * shared_squares[:, :num_weights].mean(1, keepdim=True)
    if num_weights is not None:
        flat_shared[:, num_weights:] = False
    return replace(
        updates,
        rows=updates.rows + noise[of_rows].view_as(updates.rows) * flat_rows,
        shared=updates.shared + noise[~of_rows].view_as(updates.shared) * flat_shared,
    )


def _laplace(uniform: np.ndarray, scale: float) -> np.ndarray:
    """Draws from [0, 1) to Laplace(0, scale), by the inverse of its distribution function."""
    centred = uniform - 0.5
    # 0 would become infinite: half a step of a draw's grid keeps away from it.
    tail = np.maximum(1 - 2 * np.abs(centred), 2.0**-54)
    values: np.ndarray = -scale * np.sign(centred) * np.log(tail)
    return values
