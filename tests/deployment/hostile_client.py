"""The ClientApp of a registered node that means harm: it introduces itself as an honest one and lies in every round.

A SuperNode starts ``flwr-clientapp`` by name for each message. Whoever owns the node owns that program, and so what it
answers: ``install`` writes one of its own.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from protocol.admission import LARGEST_VALUE
from protocol.arrays import to_array, to_tensor
from protocol.messages import MOST_BESIDE_ARRAYS

Columns = dict[str, np.ndarray[Any, Any]]


def columns_of(users: list[int], num_items: int, dim: int) -> Columns:
    """An update for each of the users that a server would accept: every item, one example."""
    n = len(users)
    return {
        "users": np.array(users, np.int64),
        "num_examples": np.ones(n, np.int64),
        "row_splits": np.arange(n + 1) * num_items,
        "items": np.tile(np.arange(num_items), n),
        "rows": np.full((n * num_items, dim), 0.01, np.float32),
        "shared": np.zeros((n, 0), np.float32),
        "losses": np.ones(n, np.float32),
    }


def content_of(columns: Columns, server_round: int, **beside: Any) -> RecordDict:
    """A reply of these columns."""
    arrays = {name: to_array(torch.from_numpy(values)) for name, values in columns.items()}
    return RecordDict({"updates": ArrayRecord(arrays), "reply": ConfigRecord({"server-round": server_round}), **beside})


def with_values(value: float) -> Callable[[Columns, int], RecordDict]:
    """Every number of every update is this one."""
    return lambda columns, at: content_of({**columns, "rows": np.full_like(columns["rows"], value)}, at)


def with_column(name: str, change: Callable[[Any], Any]) -> Callable[[Columns, int], RecordDict]:
    """One column is another one."""
    return lambda columns, at: content_of({**columns, name: change(columns[name])}, at)


def with_bytes(shape: tuple[int, ...], body: bytes) -> Callable[[Columns, int], RecordDict]:
    """The rows are bytes that say of themselves what they like."""

    def made(columns: Columns, server_round: int) -> RecordDict:
        content = content_of(columns, server_round)
        content.array_records["updates"]["rows"] = Array("float32", shape, "numpy.ndarray", body)
        return content

    return made


def raises(columns: Columns, server_round: int) -> RecordDict:
    """No reply, and an error's text of a length that nobody wants in a log."""
    raise RuntimeError("\x1b[2J\n" * 100)


LIES: list[Callable[[Columns, int], RecordDict]] = [
    with_values(float("nan")),
    with_values(float("-inf")),
    with_values(10 * LARGEST_VALUE),
    with_column("num_examples", lambda claims: claims * 10**12),
    with_column("num_examples", lambda claims: -claims),
    with_column("items", lambda items: items + 10**6),
    with_column("items", lambda items: items[::-1].copy()),
    with_column("users", lambda users: users + 10**6),
    with_column("row_splits", lambda splits: splits * (2**62)),
    with_column("losses", lambda losses: losses * np.float32("nan")),
    lambda columns, at: content_of(columns, at - 1),
    lambda columns, at: content_of({name: columns[name] for name in list(columns)[:3]}, at),
    lambda columns, at: content_of(columns, at, attack=MetricRecord({"k": [1.0] * MOST_BESIDE_ARRAYS})),
    lambda columns, at: content_of(columns, at, beside=ConfigRecord({"k": "x" * 10**7})),
    lambda columns, at: RecordDict(),
    with_bytes((2**40, 2**20), b"\x93NUMPY\x01\x00"),
    with_bytes((1,), pickle.dumps(print)),
    raises,
]
"""What is sent in round after round: each makes every update of the reply one that must not be used."""


def lie(message: Message) -> Message:
    """The answer to a train message."""
    server_round = int(message.content.config_records["request"]["server-round"])  # type: ignore[arg-type]
    items = to_tensor(message.content.array_records["model"]["items"], np.float32, 2)
    users = to_tensor(message.content.array_records["users"]["users"], np.int64, 1).tolist()
    made = LIES[server_round % len(LIES)](columns_of(users, *items.shape), server_round)
    return Message(made, reply_to=message)


class HostileApp:
    """Answers queries and evaluations as the run's own app, and train messages by lies."""

    def __init__(self, honest: Callable[[Message, Context], Message]) -> None:
        self.honest = honest

    def __call__(self, message: Message, context: Context) -> Message:
        return lie(message) if message.metadata.message_type == "train" else self.honest(message, context)


def serve() -> None:
    """``flwr-clientapp``, whose app is hostile."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
    from flwr.supernode.runtime import run_clientapp

    loader = run_clientapp.get_load_client_app_fn

    def hostile(*arguments: Any, **named: Any) -> Any:
        load = loader(*arguments, **named)
        return lambda *run: HostileApp(load(*run))

    run_clientapp.get_load_client_app_fn = hostile
    sys.argv[0] = "flwr-clientapp"
    flwr_clientapp()


def install(folder: Path) -> None:
    """Write a ``flwr-clientapp`` into the folder, which then comes first in a SuperNode's PATH."""
    folder.mkdir()
    program = folder / "flwr-clientapp"
    paths = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])]
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[1:1] = {paths!r}\nfrom hostile_client import serve\nserve()\n"
    )
    program.chmod(0o755)
