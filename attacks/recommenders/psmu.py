"""PSMU (Yuan et al., SIGIR 2023): synthetic users, for whom targets are raised above what they would be recommended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import logsigmoid

from attacks.attack import Attack
from attacks.recommenders.fitted_users import fitted_users
from attacks.recommenders.promotion import own_updates
from attacks.view import AttackerView
from protocol.updates import Updates
from settings.options import option


@dataclass(frozen=True)
class PsmuOptions:
    """``steps`` of Adam at ``rate`` fit a synthetic user's vector to its profile."""

    profile: int = option(30, "items that a synthetic user likes, drawn at random", at_least=1)
    alternatives: int = option(10, "K: how many of its best items the targets are raised above", at_least=1)
    steps: int = option(50, "steps by which a synthetic user's vector is fitted to its profile", at_least=0)
    rate: float = option(0.02, "learning rate of these steps", above=0)


class Psmu(Attack):
    """Each malicious user is a synthetic one: it uploads the gradient of −mean ln σ(s(u, t) − s(u, j)).

    The mean is over the targets t and the user's K best items j, its alternative products: neither targets nor items
    of its profile. Profiles are drawn anew in each round.
    """

    prefix = "psmu"
    promotes: ClassVar[bool] = True
    Options = PsmuOptions

    def poison(self, view: AttackerView) -> Updates:
        """An update of its own for each user: rows of the targets and of its alternatives, and shared parameters."""
        targets, count, num_items = torch.tensor(view.request.targets), len(view.selected), len(view.model.items)
        candidates = torch.ones(num_items, dtype=torch.bool)
        candidates[targets] = False
        others, profile = candidates.nonzero().flatten(), self.options.profile
        size = min(profile, len(others))
        profiles = [others[torch.from_numpy(view.generator.choice(len(others), size, False))] for _ in range(count)]
        vectors = fitted_users(view, profiles, self.options.steps, self.options.rate)
        table, shared = view.model.items.clone().requires_grad_(), view.model.shared.clone().requires_grad_()
        scores = view.scores(table, shared, vectors)
        touched, rows, of_shared = [], [], []
        for own, likes in zip(scores, profiles, strict=True):
            known = own.detach().clone()
            known[targets], known[likes] = -torch.inf, -torch.inf
            most = min(self.options.alternatives, num_items - len(targets) - len(likes))
            best = known.topk(most).indices
            loss = -logsigmoid(own[targets].unsqueeze(1) - own[best]).mean()
            by_table, by_shared = torch.autograd.grad(loss, (table, shared), retain_graph=True, allow_unused=True)
            items = torch.cat([targets, best]).sort().values
            touched.append(items)
            rows.append(by_table[items])
            of_shared.append(torch.zeros_like(shared) if by_shared is None else by_shared)
        return own_updates(view, touched, rows, torch.stack(of_shared))
