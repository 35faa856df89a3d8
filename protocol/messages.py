"""Requests and replies as Flower's records: the one place that knows how they look on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from metrics.metric import CountLimits
from protocol.admission import Admitted, Limits, UnreadableError, admit
from protocol.arrays import MOST_BEFORE_NUMBERS, num_bytes, to_array, to_tensor
from protocol.requests import (
    EvaluateRequest,
    GlobalModel,
    Hosted,
    LossOptions,
    PopulationQuery,
    TrainReply,
    TrainRequest,
)
from protocol.updates import Updates
from protocol.upload_dtype import KINDS, UploadDtype, narrowed, widened
from settings import options
from settings.options import require

LONGEST_TEXT = 64
"""Characters of a name that somebody else chose."""

MOST_BESIDE_ARRAYS = 1 << 16
"""Bytes of a reply that are not the numbers of its arrays: an honest one has a few hundred."""

REPLY_COLUMNS: dict[str, tuple[Any, int]] = {
    "users": (np.int64, 1),
    "num_examples": (np.int64, 1),
    "row_splits": (np.int64, 1),
    "items": (np.int64, 1),
    "rows": (np.float32, 2),
    "shared": (np.float32, 2),
    "losses": (np.float32, 1),
}


NARROWED = ("rows", "shared")
"""The columns that travel in the run's ``upload_dtype``; read, they are float32 again."""


def model_record(model: GlobalModel) -> ArrayRecord:
    """The global model, made once a round and shared by all the round's messages."""
    return _record({"items": model.items, "shared": model.shared})


def request_content(model: ArrayRecord, request: TrainRequest | EvaluateRequest) -> RecordDict:
    """A train or evaluate message's content."""
    fields: dict[str, Any] = {
        "server-round": request.server_round,
        "run": request.run,
        "resumed-at": list(request.resumed_at),
        "keep-from": request.keep_from,
        "targets": list(request.targets),
        **options.as_run_config(request.loss),
    }
    if isinstance(request, TrainRequest):
        fields["upload-dtype"] = request.upload_dtype
    else:
        fields["attack-metrics"] = request.attack_metrics
    return RecordDict({"model": model, "users": _record({"users": request.users}), "request": ConfigRecord(fields)})


def query_content(query: PopulationQuery) -> RecordDict:
    """A population query's content."""
    fields = {
        "run": query.run,
        "resumed-at": list(query.resumed_at),
        "afresh": query.afresh,
        "attack-metrics": query.attack_metrics,
    }
    return RecordDict({"query": ConfigRecord(fields)})  # type: ignore[arg-type]


def read_query(content: RecordDict) -> PopulationQuery:
    """The inverse of ``query_content``; a query without content asks for no private state."""
    if "query" not in content:
        return PopulationQuery()
    fields: dict[str, Any] = dict(_config(content, "query").items())
    resumed_at = tuple(int(number) for number in fields["resumed-at"])
    return PopulationQuery(str(fields["run"]), resumed_at, bool(fields["afresh"]), bool(fields["attack-metrics"]))


def read_model(content: RecordDict) -> GlobalModel:
    """The global model of a request."""
    arrays = _arrays(content, "model")
    return GlobalModel(to_tensor(arrays["items"], np.float32, 2), to_tensor(arrays["shared"], np.float32, 1))


def read_train_request(content: RecordDict) -> TrainRequest:
    """The inverse of ``request_content`` for a train message."""
    kind: Any = _config(content, "request").get("upload-dtype")
    require(kind in KINDS, "upload-dtype", kind, "one of " + ", ".join(KINDS))
    return TrainRequest(*_read_request(content), upload_dtype=kind, targets=_targets(content))


def read_evaluate_request(content: RecordDict) -> EvaluateRequest:
    """The inverse of ``request_content`` for an evaluate message."""
    attack_metrics = bool(_config(content, "request").get("attack-metrics"))
    return EvaluateRequest(*_read_request(content), attack_metrics=attack_metrics, targets=_targets(content))


def train_reply_content(
    reply: TrainReply,
    server_round: int,
    upload_dtype: UploadDtype = "float32",
    attack: Mapping[str, float] | None = None,
) -> RecordDict:
    """The updates of a node's users in the kind of number that the run asks for, and the round that they belong to.

    ``attack``: the state of the attack that changed them, for the log.
    """
    columns: dict[str, Tensor] = {name: getattr(reply.updates, name) for name in REPLY_COLUMNS if name != "losses"}
    columns["losses"] = reply.losses
    if upload_dtype != "float32":
        columns.update({name: narrowed(columns[name], upload_dtype) for name in NARROWED})
    content = RecordDict({"updates": _record(columns), "reply": ConfigRecord({"server-round": server_round})})
    if attack is not None:
        content["attack"] = MetricRecord({**attack})
    return content


def read_train_reply(content: RecordDict, server_round: int, limits: Limits) -> Admitted:
    """What of a reply can be accepted. Raises ``UnreadableError`` where nothing can."""
    _check_size(content, limits.most_bytes)
    _check_round(content, server_round)
    arrays = _arrays(content, "updates")
    if set(arrays) != set(REPLY_COLUMNS):
        raise UnreadableError(f"columns {_shown(sorted(arrays))}, expected {sorted(REPLY_COLUMNS)}")
    return admit({name: _column(arrays, name, limits.upload_dtype) for name in REPLY_COLUMNS}, limits)


def read_own_reply(content: RecordDict, upload_dtype: UploadDtype = "float32") -> TrainReply:
    """A reply that this node's own app made, for a mod that replaces some of it."""
    arrays = _arrays(content, "updates")
    columns = {name: _column(arrays, name, upload_dtype) for name in REPLY_COLUMNS}
    losses = columns.pop("losses")
    shares = losses.new_ones(len(losses))
    return TrainReply(Updates(**columns, l2_share=shares), losses)


def counts_content(counts: Mapping[str, Tensor], server_round: int) -> RecordDict:
    """An evaluation's counts, int64, one dimension each, and the round that they belong to."""
    return RecordDict({"counts": _record(counts), "reply": ConfigRecord({"server-round": server_round})})


def read_counts(
    content: RecordDict, expected: Mapping[str, CountLimits], server_round: int, users: int
) -> dict[str, Tensor]:
    """The counts by name, each of the length expected, and part by part no more than so many ``users`` can add up to.

    Raises ``UnreadableError``.
    """
    _check_size(content, sum(MOST_BEFORE_NUMBERS + 8 * limits.length for limits in expected.values()))
    _check_round(content, server_round)
    arrays = _arrays(content, "counts")
    if set(arrays) != set(expected):
        raise UnreadableError(f"counts {_shown(sorted(arrays))}, expected {sorted(expected)}")
    counts = {name: to_tensor(arrays[name], np.int64, 1) for name in expected}
    for name, limits in expected.items():
        values, length, most = counts[name], limits.length, limits.per_user * users
        # Each by itself before their sums, which could wrap round.
        wrong = len(values) != length or bool(((values < 0) | (values > most)).any())
        if wrong or bool((values.view(limits.parts, -1).sum(1) > most).any()):
            raise UnreadableError(f"{name!r} is not a list of {length} counts of at most {users} users")
    return counts


def hosted_content(hosted: Hosted) -> RecordDict:
    """A node's answer to the population query."""
    sizes: dict[str, Any] = {
        "num-users": hosted.num_users,
        "num-items": hosted.num_items,
        "code": hosted.code,
        "data-digest": hosted.data_digest,
        "device": hosted.device[:LONGEST_TEXT],
    }
    columns = _record({"users": hosted.users, "malicious": hosted.malicious})
    return RecordDict({"hosted": columns, "sizes": ConfigRecord(sizes)})


def read_hosted(content: RecordDict) -> Hosted:
    """The inverse of ``hosted_content``. Raises ``UnreadableError``."""
    arrays, sizes = _arrays(content, "hosted"), _config(content, "sizes")
    num_users, num_items = _whole(sizes, "num-users"), _whole(sizes, "num-items")
    code, data_digest, device = sizes.get("code"), sizes.get("data-digest"), sizes.get("device")
    _check_size(content, 2 * MOST_BEFORE_NUMBERS + 9 * num_users)
    users = to_tensor(_named(arrays, "users"), np.int64, 1)
    malicious = to_tensor(_named(arrays, "malicious"), np.bool_, 1)
    if not isinstance(code, str) or len(code) > LONGEST_TEXT:
        raise UnreadableError("no fingerprint of its program")
    if not isinstance(data_digest, str) or len(data_digest) > LONGEST_TEXT:
        raise UnreadableError("no digest of its data")
    if not isinstance(device, str) or len(device) > LONGEST_TEXT:
        raise UnreadableError("no name of its device")
    if len(users) != len(malicious) or bool(((users < 0) | (users >= num_users)).any()):
        raise UnreadableError("users that do not fit the sizes stated")
    if len(torch.unique(users)) != len(users):
        raise UnreadableError("a user that it claims twice")
    return Hosted(users, malicious, num_users, num_items, code, data_digest, device)


def size_of(content: RecordDict) -> int:
    """Bytes of a message's arrays; see ``beside_arrays`` for the rest."""
    records = [record for record in content.values() if isinstance(record, ArrayRecord)]
    return sum(num_bytes(array) for record in records for array in record.values())


def beside_arrays(content: RecordDict) -> int:
    """About how many bytes of a message are not the numbers of its arrays: names, labels, and records of other kinds.

    A number counts as 8 bytes.
    """
    size = 0
    for name, record in content.items():
        size += len(name)
        for key, value in record.items():
            size += len(key)
            if isinstance(value, Array):
                size += len(value.dtype) + len(value.stype) + 8 * len(value.shape)
            else:
                size += _bytes_of(value)
    return size


def _bytes_of(value: object) -> int:
    """Bytes of one value of a record that is no array: a number, a text, or a list of these."""
    if isinstance(value, str | bytes):
        return len(value)
    if not isinstance(value, list):
        return 8
    # All of a list are of one kind, and numbers need not be looked at one by one.
    return sum(map(len, value)) if value and isinstance(value[0], str | bytes) else 8 * len(value)


def reply_size(content: RecordDict) -> int:
    """Bytes of all that a reply carries."""
    return size_of(content) + beside_arrays(content)


def _check_size(content: RecordDict, most_in_arrays: int) -> None:
    """Raise ``UnreadableError`` for more bytes than a message can need, in its arrays or beside them."""
    for found, most, where in (
        (size_of(content), most_in_arrays, "in arrays"),
        (beside_arrays(content), MOST_BESIDE_ARRAYS, "beside arrays"),
    ):
        if found > most:
            raise UnreadableError(f"{found} bytes {where}, at most {most} are possible")


def _check_round(content: RecordDict, server_round: int) -> None:
    stated = _whole(_config(content, "reply"), "server-round")
    if stated != server_round:
        raise UnreadableError(f"an answer of round {stated} in round {server_round}")


def _whole(record: ConfigRecord, name: str) -> int:
    """A number of 0 to 2⁶³ − 1."""
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise UnreadableError(f"no number under the name {name!r}")
    return value


def _shown(names: list[str]) -> str:
    """Names that a stranger chose, for a line in a log."""
    return str([name[:LONGEST_TEXT] for name in names[:10]])


def _read_request(content: RecordDict) -> tuple[int, Tensor, str, LossOptions, tuple[int, ...], int]:
    fields: dict[str, Any] = dict(_config(content, "request").items())
    loss = options.read(LossOptions, fields)
    users = to_tensor(_arrays(content, "users")["users"], np.int64, 1)
    resumed_at = tuple(int(number) for number in fields["resumed-at"])
    return int(fields["server-round"]), users, str(fields["run"]), loss, resumed_at, int(fields["keep-from"])


def _targets(content: RecordDict) -> tuple[int, ...]:
    found: Any = _config(content, "request").get("targets", [])
    return tuple(int(item) for item in found)


def _column(arrays: ArrayRecord, name: str, upload_dtype: UploadDtype) -> Tensor:
    kind, dims = REPLY_COLUMNS[name]
    if name not in NARROWED:
        return to_tensor(arrays[name], kind, dims)
    return widened(to_tensor(arrays[name], KINDS[upload_dtype].numpy, dims), upload_dtype)


def _record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    # One by one: a record that is made of a dictionary asks each array for its bytes.
    record = ArrayRecord()
    for name, tensor in tensors.items():
        record[name] = to_array(tensor)
    return record


def _arrays(content: RecordDict, name: str) -> ArrayRecord:
    record = content.get(name)
    if not isinstance(record, ArrayRecord):
        raise UnreadableError(f"no arrays under the name {name!r}")
    return record


def _config(content: RecordDict, name: str) -> ConfigRecord:
    record = content.get(name)
    if not isinstance(record, ConfigRecord):
        raise UnreadableError(f"no values under the name {name!r}")
    return record


def _named(arrays: ArrayRecord, name: str) -> Array:
    if name not in arrays:
        raise UnreadableError(f"no array under the name {name!r}")
    return arrays[name]
