"""FedRecAttack (Rong et al., ICDE 2022): targets are raised for users whose public interactions it knows.

Source: the authors' program (github.com/rdz98/FedRecAttack, ``Attack/FedRecAttack``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.recommenders.fitted_users import fitted_users
from attacks.recommenders.promotion import own_updates
from attacks.view import AttackerView
from protocol.updates import Updates
from settings.options import option


@dataclass(frozen=True)
class FedRecAttackOptions:
    """``rows`` and ``norm`` are what the paper calls κ and C; ``steps`` of Adam at ``rate`` fit the user vectors."""

    rows: int = option(60, "κ: how many item rows a user uploads at most", at_least=1)
    norm: float = option(1.0, "C: the largest length of a row", above=0)
    users: int = option(256, "how many users with public interactions are approximated in a round", at_least=1)
    alternatives: int = option(10, "K: the targets are raised above the K-th best item and the ones before", at_least=1)
    steps: int = option(50, "steps by which a user's vector is fitted to its public interactions", at_least=0)
    rate: float = option(0.02, "learning rate of these steps", above=0)


class FedRecAttack(Attack):
    """Minimises Σ g(s(u, K-th best other) − s(u, t)) with g(x) = x for x ≥ 0, else eˣ − 1, over approximated users.

    One gradient is split over the malicious users: each uploads the targets' rows and others drawn by their length,
    none longer than C, and what it uploads is taken from what remains for the next.
    """

    prefix = "fed-rec-attack"
    promotes: ClassVar[bool] = True
    knows_public: ClassVar[bool] = True
    Options = FedRecAttackOptions

    def poison(self, view: AttackerView) -> Updates:
        """At most κ rows for each user; the shared parameters stay as they are."""
        remains = self._gradient(view)
        touched, rows = [], []
        for _ in range(len(view.selected)):
            items = self._chosen(view, remains)
            uploaded = _clipped(remains[items], self.options.norm)
            remains[items] -= uploaded
            touched.append(items)
            rows.append(uploaded)
        return own_updates(view, touched, rows, torch.zeros_like(view.honest.shared))

    def _gradient(self, view: AttackerView) -> Tensor:
        known = self._public_users(view)
        table = view.model.items.clone().requires_grad_()
        if not known:
            return torch.zeros_like(table)
        vectors = fitted_users(view, known, self.options.steps, self.options.rate)
        scores = view.scores(table, view.model.shared, vectors)
        targets = torch.tensor(view.request.targets)
        excluded = scores.detach().clone()
        excluded[:, targets] = -torch.inf
        differences = []
        for user, items in enumerate(known):
            excluded[user, items] = -torch.inf
            wanted = targets[~torch.isin(targets, items)]
            most = min(self.options.alternatives, int(torch.isfinite(excluded[user]).sum()))
            if most and len(wanted):
                # The authors' program takes the K-th best for the first target, the one before for the next.
                best = excluded[user].topk(most).indices.flip(0)
                others = best[torch.arange(len(wanted)) % most]
                differences.append(scores[user, others] - scores[user, wanted])
        if not differences:
            return torch.zeros_like(table)
        above = torch.cat(differences)
        loss = torch.where(above >= 0, above, torch.expm1(above.clamp(max=0))).sum()
        (gradient,) = torch.autograd.grad(loss, table)
        return gradient

    def _public_users(self, view: AttackerView) -> list[Tensor]:
        """The public items of up to ``users`` users who have any."""
        if view.public is None:
            raise ValueError("fed-rec-attack knows public interactions, but was shown none.")
        splits, items = view.public
        users = splits.diff().nonzero().flatten()
        if len(users) > self.options.users:
            users = users[torch.from_numpy(view.generator.choice(len(users), self.options.users, False)).sort().values]
        parts = (items[int(splits[user]) : int(splits[user + 1])] for user in users)
        return [torch.from_numpy(np.unique(part.numpy())) for part in parts]

    def _chosen(self, view: AttackerView, remains: Tensor) -> Tensor:
        """The targets, and others drawn with a probability in proportion to the length of their row; ascending."""
        targets = torch.tensor(view.request.targets)[: self.options.rows]
        lengths = torch.linalg.vector_norm(remains, dim=1).double()
        lengths[torch.tensor(view.request.targets)] = 0
        count = min(self.options.rows - len(targets), int((lengths > 0).sum()))
        if not count:
            return targets.sort().values
        shares = (lengths / lengths.sum()).numpy()
        drawn = torch.from_numpy(view.generator.choice(len(lengths), count, False, shares))
        return torch.cat([targets, drawn]).sort().values


def _clipped(rows: Tensor, most: float) -> Tensor:
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows * torch.where(lengths > most, most / lengths, 1)
