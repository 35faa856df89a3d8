"""The gradient that promotes target items for some user vectors, real or made up, and the update that carries it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from attacks.view import AttackerView
from protocol.updates import Updates, make_updates, splits_of


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
    return own_updates(view, [targets] * count, [rows] * count, shared.expand(count, -1).clone())


def own_updates(view: AttackerView, items: list[Tensor], rows: list[Tensor], shared: Tensor) -> Updates:
    """Each selected user uploads its own: ``items`` (r,), ascending, ``rows`` (r, d), and a row of ``shared`` (n, p).

    Users and ``num_examples`` are those of the honest updates.
    """
    return make_updates(
        users=view.honest.users,
        num_examples=view.honest.num_examples,
        row_splits=splits_of(torch.tensor([len(touched) for touched in items])),
        items=torch.cat(items),
        rows=torch.cat(rows),
        shared=shared,
    )
