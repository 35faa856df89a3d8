"""What a node must be sent so that it has the present model: the whole, or the rows that changed since it saw one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from protocol.downloads import Version, changes_record
from protocol.requests import GlobalModel


@dataclass(frozen=True)
class Download:
    """A request's model, and which one it is (``None``: nobody keeps models in this run)."""

    model: ArrayRecord
    version: Version | None


class Downloads:
    """The versions of the model, and which of them each node is known to have.

    ``changes``: whether nodes keep the model and are sent changed rows where these are fewer bytes.
    """

    def __init__(self, *, changes: bool) -> None:
        self._changes = changes
        self._number = 0
        self._model: GlobalModel | None = None
        self._changed_in = torch.empty(0, dtype=torch.int64)
        self._has: dict[int, int] = {}
        self._from: dict[int, Download] = {}

    def present(self, model: GlobalModel) -> None:
        """From now on this is the model to send."""
        last = self._model
        if not self._changes or (last is not None and last.items is model.items and last.shared is model.shared):
            return
        self._number += 1
        self._from.clear()
        if last is None:
            self._changed_in = torch.full((len(model.items),), self._number)
        else:
            self._changed_in[_differs(last.items, model.items)] = self._number
        self._model = model

    def whole(self, model: ArrayRecord) -> Download:
        """The whole model."""
        return Download(model, Version(self._number) if self._changes else None)

    def to(self, node: int, model: ArrayRecord) -> Download:
        """What this node needs; ``model``: the whole."""
        base = self._has.get(node)
        if base is None or self._model is None:
            return self.whole(model)
        if base not in self._from:
            changed = (self._changed_in > base).nonzero().flatten()
            self._from[base] = self._smaller(changed, base, self._model, model)
        return self._from[base]

    def answered(self, node: int, whether: bool) -> None:
        """Whether a node answered the last request; one that did not may have missed the model."""
        if whether:
            self._has[node] = self._number
        else:
            self._has.pop(node, None)

    def _smaller(self, changed: Tensor, base: int, model: GlobalModel, whole: ArrayRecord) -> Download:
        count, dim = model.items.shape
        if len(changed) * (8 + 4 * dim) >= count * 4 * dim:
            return self.whole(whole)
        return Download(changes_record(changed, model), Version(self._number, base))


def _differs(before: Tensor, after: Tensor) -> Tensor:
    """(num_items,) whether a bit of a row changed: 0 and -0 are equal, but not the same."""
    if not before.numel():
        return torch.zeros(len(before), dtype=torch.bool)
    return (before.view(torch.int32) != after.view(torch.int32)).any(1)
