"""A request's model as the rows that changed since another version, and what a node says that lacks that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from protocol.arrays import to_array, to_tensor
from protocol.requests import GlobalModel

WHOLE = -1


@dataclass(frozen=True)
class Version:
    """Which of the server's models a request brings: the whole, or what changed since number ``base``."""

    number: int
    base: int = WHOLE


@dataclass(frozen=True)
class Changes:
    """``rows`` (k, d) are what the rows ``items`` (k,) of the item table became; ``shared`` (p,) is whole."""

    items: Tensor
    rows: Tensor
    shared: Tensor

    def applied_to(self, model: GlobalModel) -> GlobalModel:
        """The model with these rows."""
        return GlobalModel(model.items.index_copy(0, self.items, self.rows), self.shared)


def changes_record(items: Tensor, model: GlobalModel) -> ArrayRecord:
    """The rows of ``items`` (k,) as they are now."""
    columns = {"changed": items, "rows": model.items[items], "shared": model.shared}
    return ArrayRecord({name: to_array(values) for name, values in columns.items()})


def read_changes(arrays: Mapping[str, object]) -> Changes:
    """The inverse of ``changes_record``."""
    return Changes(
        to_tensor(arrays["changed"], np.int64, 1),  # type: ignore[arg-type]
        to_tensor(arrays["rows"], np.float32, 2),  # type: ignore[arg-type]
        to_tensor(arrays["shared"], np.float32, 1),  # type: ignore[arg-type]
    )


def version_record(version: Version) -> ConfigRecord:
    """What a request says of its model."""
    return ConfigRecord({"number": version.number, "base": version.base})


def read_version(content: RecordDict) -> Version | None:
    """The inverse of ``version_record``, ``None`` where nodes need not keep the model."""
    record = content.get("download")
    if not isinstance(record, ConfigRecord):
        return None
    return Version(int(str(record["number"])), int(str(record["base"])))


def lacking_content() -> RecordDict:
    """A node's answer where it does not have the version that a request's changes are to be applied to."""
    return RecordDict({"download": ConfigRecord({"lacking": True})})


def is_lacking(content: RecordDict) -> bool:
    """Whether this is ``lacking_content``."""
    record = content.get("download")
    return isinstance(record, ConfigRecord) and record.get("lacking") is True
