"""The updates of chosen rounds on disk, with the server's model of that moment: what offline judging needs.

One safetensors file a round, so that a killed run keeps what it had and a reader needs no more than one round
in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from protocol.updates import Updates
from server.outcome import RoundOutcome
from server.results.observers import Observer
from server.results.storage import storing, write_atomically
from settings.options import require
from strategies.server_model import ServerModel

FOLDER = "updates"
UPDATES = ("users", "num_examples", "row_splits", "items", "rows", "shared")
EXPECTED = "\"\" for none, 10 for every tenth, 100-120 for a range, 100-500/10 for every tenth of it, or several by ','"


@dataclass(frozen=True)
class Rounds:
    """Which rounds are recorded: ``ranges`` of (first, last, step); a ``last`` of 0 has no end."""

    ranges: tuple[tuple[int, int, int], ...] = ()

    def __contains__(self, server_round: int) -> bool:
        return any(
            first <= server_round and (not last or server_round <= last) and (server_round - first) % step == 0
            for first, last, step in self.ranges
        )


@dataclass(frozen=True)
class RecordedRound:
    """One round as the server saw it: the model before its step, the updates that passed admission (in ascending
    order of user), and the malicious users among them.
    """

    server_round: int
    model: ServerModel
    updates: Updates
    malicious: np.ndarray


def parse_rounds(text: str) -> Rounds:
    """The option ``record-updates``. Raises ``OptionError``."""
    return Rounds(tuple(_range(part.strip(), text) for part in text.split(",") if part.strip()))


def _range(part: str, text: str) -> tuple[int, int, int]:
    bounds, slash, step = part.partition("/")
    first, dash, last = bounds.partition("-")
    numbers = [first, *([last] if dash else []), *([step] if slash else [])]
    right = all(number.isdecimal() and int(number) > 0 for number in numbers) and not (slash and not dash)
    require(right, "record-updates", text, EXPECTED)
    if not dash:
        return int(first), 0, int(first)
    require(int(first) <= int(last), "record-updates", text, EXPECTED)
    return int(first), int(last), int(step) if slash else 1


@dataclass(frozen=True)
class UpdateLog(Observer):
    """Writes the chosen rounds into ``directory``/updates."""

    directory: Path
    rounds: Rounds

    def round(self, before: ServerModel, outcome: RoundOutcome, line: Mapping[str, Any]) -> None:
        """Write one round if it is chosen. ``before``: the model that clients got. Raises ``StorageError``."""
        updates = outcome.intake.updates
        if outcome.server_round not in self.rounds or updates is None:
            return
        tensors = {f"updates.{name}": getattr(updates, name).contiguous() for name in UPDATES}
        tensors |= before.tensors
        users = updates.users.numpy()
        about = {
            "round": outcome.server_round,
            "steps": before.round,
            "learning_rate": before.learning_rate,
            "weight_decay": before.weight_decay,
            "optimizer": before.optimizer,
            "malicious": users[np.isin(users, outcome.attackers)].tolist(),
        }
        # Tensors that share memory cannot be written as they are.
        content = safetensors.torch.save(
            {name: tensor.clone() for name, tensor in tensors.items()}, {"about": json.dumps(about)}
        )
        with storing(self.directory):
            folder = self.directory / FOLDER
            folder.mkdir(exist_ok=True)
            write_atomically(folder / f"round-{outcome.server_round:06}.safetensors", content)


def recorded_rounds(directory: Path) -> Iterator[RecordedRound]:
    """The recorded rounds of a run, in order, one at a time."""
    for path in sorted((directory / FOLDER).glob("round-*.safetensors")):
        yield read_round(path)


def read_round(path: Path) -> RecordedRound:
    """One recorded round."""
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    settings = (about["learning_rate"], about["weight_decay"], about["optimizer"])
    model = ServerModel.start(tensors["items"], tensors["shared"], *settings).with_tensors(tensors, about["steps"])
    fields = {name: tensors[f"updates.{name}"] for name in UPDATES}
    updates = Updates(**fields, l2_share=torch.ones(len(fields["users"]), dtype=fields["shared"].dtype))
    return RecordedRound(about["round"], model, updates, np.asarray(about["malicious"], np.int64))
