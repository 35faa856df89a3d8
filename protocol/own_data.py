"""How a node with data of its own and the server agree on which user and which item has which index.

The node says the ids that stand in its file; the server, which knows the run's catalogue, answers with
their indexes. So no node learns who else takes part, and the server learns of a node's users no more than
their ids and of its items no more than which ones occur.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from protocol.admission import UnreadableError
from protocol.arrays import to_array, to_tensor
from protocol.requests import Agreement, OwnIds

OWN, AGREED, SIZES = "own", "agreed", "agreed-sizes"
"""Names of the records."""

READ_OF_ANY = 1 << 16
"""Bytes."""


def own_content(own: OwnIds) -> RecordDict:
    """A node's answer to a population query that came without an agreement."""
    texts = {"users": own.users, "items": own.items}
    return RecordDict({OWN: ArrayRecord({name: to_array(_letters(ids)) for name, ids in texts.items()})})


def has_own(content: RecordDict) -> bool:
    """Whether this is such an answer."""
    return isinstance(content.get(OWN), ArrayRecord)


def read_own(content: RecordDict, most_users: int, most_items: int) -> OwnIds:
    """The inverse of ``own_content``. Raises ``UnreadableError``, also for more bytes than these of either list."""
    record = content[OWN]
    assert isinstance(record, ArrayRecord)
    return OwnIds(_ids(record, "users", most_users), _ids(record, "items", most_items))


def bytes_of_ids(count: int, letters: int) -> int:
    """The most bytes that a list of so many ids of so many bytes together may take, each written as two escapes.

    A little more is read of any list, to name ids that are unknown.
    """
    return 12 * letters + 4 * count + READ_OF_ANY


def agreed_content(agreement: Agreement) -> RecordDict:
    """The population query that tells a node what was agreed."""
    arrays = ArrayRecord({"users": to_array(agreement.users), "items": to_array(agreement.items)})
    sizes = ConfigRecord({"num-users": agreement.num_users, "num-items": agreement.num_items})
    return RecordDict({AGREED: arrays, SIZES: sizes})


def read_agreed(content: RecordDict) -> Agreement | None:
    """The inverse of ``agreed_content``, ``None`` for a query without an agreement."""
    record, sizes = content.get(AGREED), content.get(SIZES)
    if not isinstance(record, ArrayRecord) or not isinstance(sizes, ConfigRecord):
        return None
    users, items = (to_tensor(record[name], np.int64, 1) for name in ("users", "items"))
    return Agreement(users, items, int(sizes["num-users"]), int(sizes["num-items"]))  # type: ignore[arg-type]


def _letters(ids: tuple[str, ...]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(ids).encode()), dtype=torch.uint8)


def _ids(record: ArrayRecord, name: str, most: int) -> tuple[str, ...]:
    if name not in record:
        raise UnreadableError(f"no array {name!r}")
    letters = to_tensor(record[name], np.uint8, 1)
    # Read as JSON they take up to seventy times as much.
    if len(letters) > most:
        raise UnreadableError(f"its list of {name} has {len(letters)} bytes, all of the run's have at most {most}")
    try:
        ids = json.loads(letters.numpy().tobytes())
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"ids that are not JSON ({error})") from error
    if not isinstance(ids, list) or not ids or not all(isinstance(each, str) for each in ids):
        raise UnreadableError(f"{name} that are not a list of ids")
    if len(set(ids)) != len(ids):
        raise UnreadableError(f"{name} of which one is named twice")
    return tuple(ids)
