"""What a node notes beside its users' vectors, so that they can be used without a server once a run is over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.config import ClientConfig
from data.texts import Texts
from protocol.requests import EvaluateRequest, TrainRequest
from settings.paths import absolute

NOTE, USERS, USER_IDS = "about.json", "users.npy", "user-ids.json"


@dataclass(frozen=True)
class About:
    """A run as its node knows it.

    ``data``: the node's own file, "" for a part of ``dataset``; ``server_round``: the latest round whose model
    the node has evaluated, or before whose training its process was first asked.
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


def kept_states(folder: Path) -> list[Path]:
    """The directories in a folder in which nodes kept state."""
    return sorted(path.parent for path in absolute("state-dir", folder).rglob(NOTE))


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


def keep_about(directory: Path, note: About, hosted: HostedUsers) -> None:
    """Write it at a node's first request of a run, and again where an evaluation says that a round is over."""
    path = directory / NOTE
    if path.exists():
        kept = read_about(directory)
        if replace(kept, server_round=note.server_round) == note and kept.server_round >= note.server_round:
            return
    else:
        np.save(directory / USERS, hosted.users, allow_pickle=False)
        (directory / USER_IDS).write_text(json.dumps(hosted.ids.tolist()))
    _write(path, note)


def rewind_about(directory: Path, server_round: int) -> None:
    """Be no further than at the end of this round, to which the state has gone back."""
    path = directory / NOTE
    if path.exists() and (kept := read_about(directory)).server_round > server_round:
        _write(path, replace(kept, server_round=server_round))


def read_about(directory: Path) -> About:
    """The inverse of ``keep_about``."""
    return About(**json.loads((directory / NOTE).read_text()))


def kept_users(directory: Path) -> HostedUsers:
    """The users of the node as ``keep_about`` noted them."""
    users = np.load(directory / USERS, allow_pickle=False)
    return HostedUsers(users, Texts.of(json.loads((directory / USER_IDS).read_text())))


def _write(path: Path, note: About) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(note)))
    partial.replace(path)
