"""The gradient that promotes target items for some user vectors, real or made up, and the update that carries it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from attacks.view import AttackerView
from protocol.updates import Updates, make_updates


def promotion_gradient(view: AttackerView, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """∂/∂v_t (t, d) of the targets' rows and ∂/∂shared (p,) of the mean BCE(σ(s(u, t)), 1) over ``vectors`` (n, d)."""
    table, shared = view.model.items.clone().requires_grad_(), view.model.shared.clone().requires_grad_()
    targets = torch.tensor(view.request.targets)
    scores = view.scores(table, shared, vectors)[:, targets]
    loss = binary_cross_entropy_with_logits(scores, torch.ones_like(scores))
    rows, others = torch.autograd.grad(loss, (table, shared), allow_unused=True)
    return rows[targets], torch.zeros_like(shared) if others is None else others


def promoting_updates(view: AttackerView, rows: Tensor, shared: Tensor) -> Updates:
    """The same upload of all selected users: the targets' ``rows`` (t, d), and ``shared`` (p,)."""
    count, targets = len(view.selected), torch.tensor(view.request.targets)
    return make_updates(
        users=view.honest.users,
        num_examples=view.honest.num_examples,
        row_splits=torch.arange(count + 1) * len(targets),
        items=targets.repeat(count),
        rows=rows.repeat(count, 1),
        shared=shared.expand(count, -1).clone(),
    )
