"""What a node notes beside its users' vectors, so that they can be used without a server once a run is over."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.config import ClientConfig
from protocol.requests import EvaluateRequest, TrainRequest

NOTE, USERS = "about.json", "users.npy"


@dataclass(frozen=True)
class About:
    """A run as its node knows it.

    ``data``: the node's own file, "" for a part of ``dataset``; ``server_round``: the latest round whose model
    the node has evaluated, or before whose training it was last asked.
    """

    model: str
    dataset: str
    data: str
    data_dir: str
    seed: int
    learning_rate: float
    server_round: int


def about(config: ClientConfig, request: TrainRequest | EvaluateRequest) -> About:
    """As of this request."""
    done = request.server_round - isinstance(request, TrainRequest)
    data = str(Path(config.node.data).expanduser().absolute()) if config.node.data else ""
    run = config.run
    return About(run.model, run.dataset, data, config.data_dir or "", run.seed, request.loss.learning_rate, done)


def keep_about(directory: Path, note: About, users: NDArray[np.int64]) -> None:
    """Write it at a node's first request of a run, and again where an evaluation says that a round is over."""
    path = directory / NOTE
    if path.exists():
        kept = read_about(directory)
        if replace(kept, server_round=note.server_round) == note and kept.server_round >= note.server_round:
            return
    else:
        np.save(directory / USERS, users)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(note)))
    partial.replace(path)


def read_about(directory: Path) -> About:
    """The inverse of ``keep_about``."""
    return About(**json.loads((directory / NOTE).read_text()))


def kept_users(directory: Path) -> NDArray[np.int64]:
    """The users (n,) of the node, in ascending order."""
    users: NDArray[np.int64] = np.load(directory / USERS)
    return users
