"""How much each parameter matters to a task: the diagonal of the Fisher information or of the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap

from data.images.image_set import Examples

FLOOR = 1e-3
CLIP_QUANTILE = 0.99
CELLS = 1 << 22
"""Numbers in one chunk of per-example gradients: 16 megabytes, the fastest for LeNet."""


def fisher_diagonal(
    log_likelihood: Callable[[Tensor, Tensor, Tensor], Tensor], vector: Tensor, examples: Examples
) -> Tensor:
    """(p,) the empirical diagonal Fisher information: mean_i (∂ ln p(y_i|x_i; θ)/∂θ_j)².

    ``log_likelihood`` takes (vector (p,), one example's image, its label) to a number. All examples' gradients
    are taken in one vectorised pass a chunk. Source: Kirkpatrick et al. 2017, with the data's labels.
    """
    gradients = vmap(grad(log_likelihood), (None, 0, 0))
    total = torch.zeros_like(vector)
    for images, labels in examples.batches(max(1, CELLS // max(len(vector), 1))):
        total += gradients(vector, images, labels).square().sum(0)
    return total / max(len(examples), 1)


def hutchinson_diagonal(
    losses: Iterable[tuple[Callable[[Tensor], Tensor], float]], vector: Tensor, generator: np.random.Generator
) -> Tensor:
    """(p,) Hutchinson's estimate of the diagonal of the Hessian of Σ_b w_b L_b: Σ_b w_b v_b ⊙ (H_b v_b).

    ``losses``: pairs (L_b, w_b), one a batch, each with a probe v_b of its own, ±1 at random; several passes
    over the data with smaller weights lower the variance. Exact where the Hessian is diagonal. Source:
    Hutchinson 1990; Bekas, Kokiopoulou and Saad 2007 for the diagonal.
    """
    total = torch.zeros_like(vector)
    for loss, weight in losses:
        signs = torch.from_numpy(generator.integers(0, 2, len(vector)) * 2 - 1).to(vector)
        point = vector.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(point), point, create_graph=True)
        (product,) = torch.autograd.grad(gradient @ signs, point)
        total += weight * signs * product
    return total


def normalised(importance: Tensor, layers: Sequence[slice]) -> Tensor:
    """(p,) importance, comparable between layers.

    In each layer: divided by the layer's mean, clipped at its 99th percentile, and at least 1e-3. Negative
    values, which only a Hessian has, count as zero.
    """
    result = importance.clamp(min=0)
    for layer in layers:
        values = result[layer]
        values = values / values.mean().clamp(min=torch.finfo(values.dtype).tiny)
        # numpy: torch.quantile refuses more than 16 million values.
        highest = float(np.quantile(values.cpu().numpy(), CLIP_QUANTILE))
        result[layer] = values.clamp(max=highest)
    return result.clamp(min=FLOOR)


def redundant_set(importance: Tensor, layers: Sequence[slice], quantile: float) -> Tensor:
    """(p,) bool: in each layer the ⌊q·size⌋ coordinates of least importance; equal ones in order of position."""
    chosen = torch.zeros_like(importance, dtype=torch.bool)
    for layer in layers:
        values = importance[layer]
        order = values.argsort(stable=True) + layer.start
        chosen[order[: int(quantile * len(values))]] = True
    return chosen
