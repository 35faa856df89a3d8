"""FLTrust (Cao et al. 2021): trust an update as far as it points where the server's own training points."""

from __future__ import annotations

import torch
from torch import Tensor

from models import VALIDATION_SET
from protocol.updates import Gradient, Updates
from settings.options import OptionError
from strategies.rule import Aggregate, Combiner, ServerView, Verdict
from strategies.sparse.inner_products import combination


class FlTrust(Combiner):
    """Σ t_i (‖g_0‖/‖g_i‖) g_i / Σ t_i with the trust t_i = max(cos(g_i, g_0), 0) (Algorithm 2 of the paper).

    g_0 is what the server gets by training on its own validation set as clients train on their shares
    (``ServerView.own_update``). A user's score is −cos(g_i, g_0); without trust it counts as dropped. Where nobody is
    trusted the model stays as it is.
    """

    name = "fltrust"
    needs = VALIDATION_SET

    def combine(self, updates: Updates, server: ServerView) -> Gradient:
        return self.aggregate(updates, server).gradient

    def aggregate(self, updates: Updates, server: ServerView) -> Aggregate:
        if server.own_update is None:
            raise OptionError(
                "defense: fltrust needs a validation set at the server, which this task does not have. "
                "Use it for classification."
            )
        reference = server.own_update().double()
        length = float(reference.norm())
        norms = updates.norms().double()
        alignment = _cosines(updates.shared.double(), norms, reference)
        trust = alignment.clamp(min=0)
        notes = {"trusted": float((trust > 0).sum()), "own_norm": length}
        verdict = Verdict(self.name, updates.users, -alignment, trust > 0, notes)
        weights = torch.where(trust > 0, trust * length / norms, 0) / trust.sum().clamp(
            min=torch.finfo(trust.dtype).tiny
        )
        return Aggregate(combination(updates, len(server.model.items), weights), (verdict,))


def _cosines(shared: Tensor, norms: Tensor, reference: Tensor) -> Tensor:
    """(n,) ⟨g_i, g_0⟩ / (‖g_i‖ ‖g_0‖), 0 where a length is."""
    scale = norms * reference.norm()
    return torch.where(scale > 0, shared @ reference / scale.clamp(min=torch.finfo(scale.dtype).tiny), 0)
