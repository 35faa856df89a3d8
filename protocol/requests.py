"""What the server asks of a node, and what a node answers: plain dataclasses, neither Flower nor bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.recommenders.loss import LossOptions as LossOptions
from protocol.updates import Updates
from protocol.upload_dtype import UploadDtype


@dataclass(frozen=True)
class GlobalModel:
    """The global parameters: ``items`` (num_items, d) and ``shared`` (p,)."""

    items: Tensor
    shared: Tensor

    def to(self, device: torch.device) -> GlobalModel:
        """The same on another device."""
        return GlobalModel(self.items.to(device), self.shared.to(device))


@dataclass(frozen=True)
class TrainRequest:
    """Train ``users`` (n,) int64 at the model of this round; ``run`` names the private state to use.

    ``resumed_at``: after which round each resume so far took the run up again; what a node did after the last
    of them that it did not know of is undone. ``keep_from``: the round of the oldest checkpoint; nobody goes
    back beyond it. ``upload_dtype``: the kind of number that the updates travel in. ``targets``: the indexes of the
    items that the run's attack promotes, for the simulated attackers.
    """

    server_round: int
    users: Tensor
    run: str
    loss: LossOptions = field(default_factory=LossOptions)
    resumed_at: tuple[int, ...] = ()
    keep_from: int = 0
    upload_dtype: UploadDtype = "float32"
    targets: tuple[int, ...] = ()


@dataclass(frozen=True)
class EvaluateRequest:
    """Evaluate the model after this round for ``users`` (n,) int64, or for all the node's where there are none.

    ``resumed_at`` and ``keep_from``: see ``TrainRequest``; ``attack_metrics``: count what the attack's own metrics
    count, too; ``targets``: the items whose promotion is measured, by index.
    """

    server_round: int
    users: Tensor
    run: str
    loss: LossOptions = field(default_factory=LossOptions)
    resumed_at: tuple[int, ...] = ()
    keep_from: int = 0
    attack_metrics: bool = False
    targets: tuple[int, ...] = ()


@dataclass(frozen=True)
class PopulationQuery:
    """Say whom you host, before the first round of a run, or before its next one where it is resumed.

    ``run`` names the private state that is begun or gone on with, "" where none is asked for; ``resumed_at``: see
    ``TrainRequest``. ``afresh``: go on with new private state where the node's is gone, which else is an error
    whose text has "The node's state". ``attack_metrics``: evaluations will ask for the metrics of the attack.
    """

    run: str = ""
    resumed_at: tuple[int, ...] = ()
    afresh: bool = False
    attack_metrics: bool = False


@dataclass(frozen=True)
class TrainReply:
    """The updates of the users asked for, and each one's loss (n,)."""

    updates: Updates
    losses: Tensor


@dataclass(frozen=True)
class Hosted:
    """What a node says of itself before the first round.

    ``users`` (n,) int64. ``malicious`` (n,) bool serves measurement alone: it says which users the
    simulated attacker controls; a real one would not tell, and no rule sees it. ``code``: a fingerprint of
    the program that the node runs; ``data_digest``: of its users' ids and split and of the items' ids
    (``data.digest.shard_digest``), "" where the model has no such data; ``device``: what it computes on, for people.
    """

    users: Tensor
    malicious: Tensor
    num_users: int
    num_items: int
    code: str
    data_digest: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class OwnIds:
    """The original ids in a node's file, each once: ``users`` (n,) and ``items`` (m,)."""

    users: tuple[str, ...]
    items: tuple[str, ...]


@dataclass(frozen=True)
class Agreement:
    """The indexes of a node's ids in the run: ``users`` (n,) and ``items`` (m,) int64, in the order it gave them."""

    users: Tensor
    items: Tensor
    num_users: int
    num_items: int
