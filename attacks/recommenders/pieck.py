"""PIECK (Zhang et al., ICDE 2024): targets are promoted with the help of popular items, mined from how rows move.

Source: the authors' program (github.com/junzhang-zj/PIECK, ``MF-FRS/attack.py`` and ``DL-FRS/attack.py``).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from attacks.attack import Attack
from attacks.recommenders.promotion import promoting_updates, promotion_gradient
from attacks.view import AttackerView
from models.recommenders.pieck_defense import popular_rows
from protocol.updates import Updates
from settings.options import option

BALANCE = 0.9
"""What the authors' program weighs IPE's loss by, with less than 10 % malicious users."""

ALIGNED = 0.95
"""The mean cosine from which IPE lengthens a target's row instead of turning it, in models with a network."""


@dataclass(frozen=True)
class PieckOptions:
    """``rounds``: between the two views; in the authors' program every user takes part once between them."""

    items: int = option(10, "N: how many of the rows that moved furthest count as popular", at_least=1)
    rounds: int = option(
        0, "rounds between the two views of the table; 0: until as many users were asked as there are", at_least=0
    )


class Pieck(Attack):
    """The part that both attacks have: two views of the item table, and the N items that moved furthest in between.

    Until the second view its users are honest. It sees the table only in rounds in which one of its users is asked.
    """

    promotes: ClassVar[bool] = True
    Options = PieckOptions

    def __init__(self, options: PieckOptions | None = None) -> None:
        super().__init__(options)
        self._first_round = 0
        self._first = b""
        self._fresh = False
        self._popular: list[int] = []

    def poison(self, view: AttackerView) -> Updates:
        """The honest updates until the popular items are mined; then one promoting update, the same for all."""
        if not self._popular:
            self._mine(view)
        if not self._popular:
            return view.honest
        return promoting_updates(view, *self._gradient(view, torch.tensor(self._popular)))

    @abstractmethod
    def _gradient(self, view: AttackerView, popular: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the targets' rows (t, d) and of the shared parameters (p,); ``popular`` (N,), best first."""

    def _mine(self, view: AttackerView) -> None:
        table, now = view.model.items, view.request.server_round
        if not self._first_round:
            self._first_round, self._first, self._fresh = now, table.numpy().astype(np.float32).tobytes(), True
            return
        apart = self.options.rounds or -(-view.num_users // view.clients_per_round)
        if now - self._first_round < apart:
            return
        first = torch.frombuffer(bytearray(self._first), dtype=torch.float32).view(table.shape).clone()
        targets = list(view.request.targets)
        # What did not move is not popular: the targets are what the attacker means to change.
        first[targets] = table[targets]
        self._popular = popular_rows(table, first, self.options.items).tolist()

    def state(self) -> dict[str, float]:
        """The round of the first view, 0 before it, and the mined items."""
        mined: dict[str, float] = {f"popular-{k}": item for k, item in enumerate(self._popular)}
        return {"first-view": self._first_round, **mined}

    def memory(self) -> bytes:
        """The first view of the table, in the round in which it was seen."""
        fresh, self._fresh = self._fresh, False
        return self._first if fresh else b""

    def recall(self, memory: bytes) -> None:
        """Take back the first view."""
        self._first = memory

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what ``state`` gave."""
        self._first_round = int(state["first-view"])
        self._popular = [int(state[f"popular-{k}"]) for k in range(len(state) - 1)]


class PieckIpe(Pieck):
    """Popularity enhancement: turns the targets' rows towards the popular ones, by cosines weighted by their rank."""

    prefix = "pieck-ipe"

    def _gradient(self, view: AttackerView, popular: Tensor) -> tuple[Tensor, Tensor]:
        rows = view.model.items[torch.tensor(view.request.targets)].clone().requires_grad_()
        others = view.model.items[popular]
        losses = [_unlikeness(row, others, lengthen=len(view.model.shared) > 0) for row in rows]
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), rows)
        return gradient, torch.zeros_like(view.model.shared)


class PieckUea(Pieck):
    """User approximation: takes the popular rows for user vectors, and raises the targets' scores for these."""

    prefix = "pieck-uea"

    def _gradient(self, view: AttackerView, popular: Tensor) -> tuple[Tensor, Tensor]:
        return promotion_gradient(view, view.model.items[popular])


def _unlikeness(row: Tensor, popular: Tensor, *, lengthen: bool) -> Tensor:
    """−0.9 times the mean of the positive weighted cosines plus that of the others; of an aligned row −‖row‖."""
    cosines = cosine_similarity(popular, row.unsqueeze(0))
    if lengthen and float(cosines.detach().mean()) > ALIGNED:
        return -row.square().sum().sqrt()
    weights = torch.arange(len(popular), 0, -1, dtype=row.dtype)
    weighted = weights / weights.sum() * cosines
    signs = (weighted[weighted > 0], weighted[weighted <= 0])
    means = torch.stack([part.mean() for part in signs if len(part)])
    return -BALANCE * torch.sum(means)
