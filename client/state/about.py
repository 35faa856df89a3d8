"""What a node notes beside its users' vectors, so that they can be used without a server once a run is over."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.config import ClientConfig
from client.state.store import FILE, Store
from data.texts import Texts
from protocol.requests import EvaluateRequest, TrainRequest
from settings.paths import absolute


@dataclass(frozen=True)
class About:
    """A run as its node knows it.

    ``data``: the node's own file, "" for a part of ``dataset``; ``server_round``: the latest round whose model
    the node has evaluated, or before whose training it was first asked.
    """

    model: str
    dataset: str
    data: str
    data_dir: str
    seed: int
    num_users: int
    learning_rate: float
    server_round: int
    columns: str = ""


@dataclass(frozen=True)
class HostedUsers:
    """Whom a node hosts: ``users`` (n,) their indexes in ascending order, ``ids`` (n,) their original ids."""

    users: NDArray[np.int64]
    ids: Texts

    @cached_property
    def digest(self) -> int:
        """What tells other users from these, though they may be as many."""
        return zlib.crc32(np.ascontiguousarray(self.users).tobytes())


def kept_states(folder: Path) -> list[Path]:
    """The directories in a folder in which nodes kept state."""
    return sorted(path.parent for path in absolute("state-dir", folder).rglob(FILE))


def states_of(run: str, states: Sequence[Path]) -> list[Path]:
    """Those of the run of this name, as ``model.safetensors`` has it."""
    return [path for path in states if run in path.parts]


def about(config: ClientConfig, num_users: int, request: TrainRequest | EvaluateRequest) -> About:
    """As of this request."""
    done = request.server_round - isinstance(request, TrainRequest)
    data = str(absolute("data", config.node.data)) if config.node.data else ""
    run, rate = config.run, request.loss.learning_rate
    columns = config.node.columns if data else run.columns
    return About(run.model, run.dataset, data, config.data_dir or "", run.seed, num_users, rate, done, columns)


def keep_about(store: Store, note: About, hosted: HostedUsers, *, evaluated: bool) -> None:
    """Write it at a node's first request of a run, and again where it is another; called in a transaction.

    ``evaluated``: the request says that its round is over. Raises ``ValueError`` where the state is another run's.
    """
    text = json.dumps(asdict(replace(note, server_round=0)))
    kept = store.note("about")
    if kept is None:
        store.keep_note("users", _packed(hosted.users))
        store.keep_note("ids", json.dumps(hosted.ids.tolist()))
        store.keep_note("users-digest", hosted.digest)
    elif json.loads(kept)["seed"] != note.seed or store.note("users-digest") != hosted.digest:
        raise ValueError("The state kept here is that of other users, or of a run with another seed.")
    if kept != text:
        store.keep_note("about", text)
    done = store.note("evaluated")
    if done is None or (evaluated and done < note.server_round):
        store.keep_note("evaluated", note.server_round)


def opened(directory: Path) -> Store:
    """The store that a node kept in a directory, to be read."""
    return Store(directory / FILE)


def read_about(store: Store) -> About | None:
    """The inverse of ``keep_about``, ``None`` where the node was never asked to train or evaluate."""
    with store.begin():
        kept, done = store.note("about"), store.note("evaluated")
    return None if kept is None else About(**{**json.loads(kept), "server_round": done})


def kept_users(store: Store) -> HostedUsers:
    """The users of the node as ``keep_about`` noted them."""
    with store.begin():
        return HostedUsers(_unpacked(store.note("users")), Texts.of(json.loads(store.note("ids"))))


def _packed(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _unpacked(content: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array
