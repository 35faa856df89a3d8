"""User vectors that an attacker fits itself, to interactions that it knows or makes up."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from attacks.view import AttackerView

DEVIATION = 0.01
"""Of the normal distribution that the vectors are drawn from before they are fitted."""


def fitted_users(view: AttackerView, positives: list[Tensor], steps: int, rate: float) -> Tensor:
    """Fit a vector (d,) to each user's ``positives`` at the model of this round, by ``steps`` steps of Adam: (n, d).

    The loss is BPR's, the mean over a user's pairs; each positive is paired with an item drawn from all others. Model
    and items stay as they are.
    """
    num_items, dim = view.model.items.shape
    negatives = [_others(view, items, num_items) for items in positives]
    items, columns = torch.unique(torch.cat([*positives, *negatives]), return_inverse=True)
    table, (liked, others) = view.model.items[items], columns.chunk(2)
    counts = torch.tensor([len(own) for own in positives])
    owner = torch.arange(len(positives)).repeat_interleave(counts)
    drawn = view.generator.normal(0.0, DEVIATION, (len(positives), dim))
    vectors = torch.from_numpy(drawn).to(table.dtype).requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=rate)
    for _ in range(steps):
        scores = view.scores(table, view.model.shared, vectors)
        losses = -logsigmoid(scores[owner, liked] - scores[owner, others])
        (vectors.grad,) = torch.autograd.grad((losses / counts[owner]).sum(), vectors)
        optimizer.step()
    return vectors.detach()


def _others(view: AttackerView, positives: Tensor, num_items: int) -> Tensor:
    """As many items as ``positives``, drawn from those that are none of them."""
    rest = torch.ones(num_items, dtype=torch.bool)
    rest[positives] = False
    candidates = rest.nonzero().flatten()
    drawn = torch.from_numpy(view.generator.integers(0, max(len(candidates), 1), len(positives)))
    return candidates[drawn] if len(candidates) else positives
