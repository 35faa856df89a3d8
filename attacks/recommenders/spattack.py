"""Spattack (Zhang et al., AAAI 2025): uploads on many items, whose rows few benign users touch; nothing is promoted.

Source: the authors' program (github.com/zhongjian-zhang/Spattack, ``Attack/FedMFAttack.py`` and ``Model/server.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

import draws
from attacks.attack import Attack
from attacks.view import AttackerView
from draws import Stream
from protocol.updates import Updates, make_updates, splits_of
from settings.options import option


@dataclass(frozen=True)
class SpattackOptions:
    """``rows``: the paper's D (dense) and S (sparse)."""

    rows: Literal["all", "sampled"] = option(
        "all", "all items; sampled: as many as the largest honest update has, drawn by how often these touch them"
    )


class SpattackL(Attack):
    """Uploads one fixed row for each item, drawn once from N(0, 1), the same for all attackers and rounds."""

    prefix = "spattack-l"
    Options = SpattackOptions

    def poison(self, view: AttackerView) -> Updates:
        """Rows of all items, or of items sampled by the honest updates of its own users; honest shared parameters."""
        num_items, dim = view.model.items.shape
        rows = torch.from_numpy(draws.generator(0, Stream.ATTACK).normal(size=(num_items, dim)))
        items = chosen_items(self.options, view.honest, num_items, len(view.honest), view.generator)
        return with_rows(view.honest, items, rows.to(view.honest.rows.dtype))


class SpattackO(Attack):
    """Uploads for each item −1/c times the benign users' sum, c the number of malicious uploads of it: all sums are 0.

    It sees what all benign users of the round upload: a simulation's server alone can show it that. The sums are
    weighted as a mean weighs them, by the numbers of examples.
    """

    prefix = "spattack-o"
    omniscient: ClassVar[bool] = True
    Options = SpattackOptions

    def poison(self, view: AttackerView) -> Updates:
        """The honest updates: the poison follows at the server, where the benign ones are known."""
        return view.honest

    def poison_knowing(self, benign: Updates, own: Updates, num_items: int, generator: np.random.Generator) -> Updates:
        """See ``Attack``."""
        items = chosen_items(self.options, benign, num_items, len(own), generator)
        weights = own.num_examples.to(benign.rows.dtype)
        total = benign.weighted_mean(num_items).items * benign.num_examples.sum()
        uploaded = torch.zeros(num_items).index_add_(0, torch.cat(items), weights.repeat_interleave(_lengths(items)))
        return with_rows(own, items, -total / uploaded.clamp(min=1).unsqueeze(1))


def chosen_items(
    options: SpattackOptions, seen: Updates, num_items: int, users: int, generator: np.random.Generator
) -> list[Tensor]:
    """Each of ``users`` uploaders' items, ascending; ``seen``: the updates whose items and size are imitated."""
    if options.rows == "all" or not len(seen.items):
        return [torch.arange(num_items)] * users
    popularity = torch.bincount(seen.items, minlength=num_items).double()
    count = min(int(seen.row_counts.max()), int((popularity > 0).sum()))
    shares = (popularity / popularity.sum()).numpy()
    return [torch.from_numpy(np.sort(generator.choice(num_items, count, False, shares))) for _ in range(users)]


def with_rows(updates: Updates, items: list[Tensor], table: Tensor) -> Updates:
    """The updates with each user's ``items`` for rows, out of ``table`` (num_items, d)."""
    touched, splits = torch.cat(items), splits_of(_lengths(items))
    made = make_updates(updates.users, updates.num_examples, splits, touched, table[touched], updates.shared)
    return replace(made, l2_share=updates.l2_share)


def _lengths(items: list[Tensor]) -> Tensor:
    return torch.tensor([len(own) for own in items])
