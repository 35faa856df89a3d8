"""Checkpoints: the model, its optimizer and the run's state after a round, whole or not there at all.

A checkpoint is one safetensors file: the tensors, and in its metadata the state as JSON and a SHA-256 of both. It
is written beside its place, synced and renamed. Nodes keep no copy: they undo what came after (see
``client.state.store``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from flwr.common.logger import log
from torch import Tensor

from server.results.storage import sync_folder, write_whole
from settings.options import OptionError
from strategies.server_model import ServerModel

FORMAT = 3

FOLDER = "checkpoints"
"""Where a run directory has them."""

MAY_CHANGE = frozenset(
    {
        "num-server-rounds", "eval-every", "output-dir", "run-name", "resume", "checkpoint-every", "keep-checkpoints",
        "data-dir", "plugin-dir", "num-nodes", "nodes-per-process", "ray-address", "cpus-per-node", "gpus-per-node",
        "min-nodes", "node-timeout", "round-timeout", "min-updates", "quarantine-after", "max-batch-tokens", "download",
    }
)  # fmt: skip
"""Options that say how long, where and how safely a run goes on, not what it is."""


State = Mapping[str, Any]


FOLLOWS = frozenset({"contrastive-weight"})
"""Options that may follow from another one, which then is the one to name."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the text says why."""


@dataclass(frozen=True)
class Checkpoint:
    """The run after round ``server_round``: the global model, and everything else as JSON."""

    server_round: int
    model: ServerModel
    state: State


class Checkpoints:
    """The checkpoints of one run directory, of which the last ``keep`` stay."""

    def __init__(self, directory: Path, keep: int) -> None:
        self._folder = directory / FOLDER
        self._keep = keep

    def write(self, checkpoint: Checkpoint) -> None:
        """Write one, and delete those that are too many. Raises ``OSError``."""
        self._folder.mkdir(exist_ok=True)
        write_whole(self._folder / name_of(checkpoint.server_round), as_bytes(checkpoint))
        for path in checkpoint_files(self._folder)[: -self._keep]:
            path.unlink()

    def oldest(self) -> int:
        """The round of the oldest one: how far a resume may go back."""
        return round_of(checkpoint_files(self._folder)[0])

    def newest_usable(self, start: ServerModel, check: Callable[[State], None], upto: str = "") -> Checkpoint:
        """The newest that is whole (of those up to the name ``upto``, where given), for a model like ``start``.

        ``check`` raises ``CheckpointError`` for a state that does not fit what else is on disk. Each refused one is
        logged with its reason. Raises ``OptionError`` where none is left.
        """
        refused = []
        for path in reversed(checkpoint_files(self._folder)):
            if upto and path.name > upto:
                continue
            try:
                state, tensors = read(path)
                check(state)
                return Checkpoint(int(state["round"]), _model(start, state, tensors), state)
            except CheckpointError as error:
                log(WARNING, "The checkpoint %s is refused: %s.", path, error)
                refused.append(f"{path.name}: {error}")
        raise OptionError(
            f"There is nothing to resume from in {self._folder}. "
            + ("; ".join(refused) or "It holds no checkpoint")
            + "."
        )

    def forget_after(self, server_round: int) -> None:
        """Set aside the checkpoints of later rounds: they belong to a course of the run that is abandoned."""
        for path in checkpoint_files(self._folder):
            if round_of(path) > server_round:
                path.replace(path.with_suffix(".abandoned"))
        sync_folder(self._folder)

    def resumes(self) -> tuple[int, ...]:
        """After which round each resume so far took the run up. Raises ``OptionError`` where the file is damaged."""
        path = self._folder / "resumes.json"
        try:
            return tuple(int(number) for number in json.loads(path.read_text())["resumed_at"])
        except FileNotFoundError:
            return ()
        except (ValueError, KeyError, TypeError) as error:
            raise OptionError(f"{path} cannot be read ({error}): nodes could not be told where to go on.") from error

    def note_resumes(self, resumed_at: tuple[int, ...]) -> None:
        """Remember the resumes, before any node hears of the last one. Raises ``OSError``."""
        write_whole(self._folder / "resumes.json", json.dumps({"resumed_at": resumed_at}).encode())


def checkpoint_files(folder: Path) -> list[Path]:
    """A run's checkpoints, the oldest first."""
    return sorted(folder.glob("round-*.safetensors"))


def name_of(server_round: int) -> str:
    """The file name of a round's checkpoint; names sort as rounds do."""
    return f"round-{server_round:09d}.safetensors"


def round_of(path: Path) -> int:
    """The inverse of ``name_of``."""
    return int(path.stem.removeprefix("round-"))


def as_bytes(checkpoint: Checkpoint) -> bytes:
    """The file's content."""
    model = checkpoint.model
    tensors = {name: tensor.contiguous() for name, tensor in model.tensors.items()}
    state = {**checkpoint.state, "format": FORMAT, "round": checkpoint.server_round, "steps": model.round}
    text = json.dumps(state, allow_nan=False)
    content: bytes = safetensors.torch.save(tensors, {"state": text, "sha256": _digest(text, tensors)})
    return content


def read(path: Path) -> tuple[State, dict[str, Tensor]]:
    """A checkpoint's state and tensors. Raises ``CheckpointError`` where it is not as it was written."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — it is no dict
        text, stated = metadata["state"], metadata["sha256"]
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"it cannot be read ({error})") from error
    except KeyError as error:
        raise CheckpointError(f"it has no {error} in its metadata") from error
    if _digest(text, tensors) != stated:
        raise CheckpointError("its checksum is wrong: it was changed after it was written")
    state: State = json.loads(text)
    if state["format"] != FORMAT:
        raise CheckpointError(f"it has the format {state['format']}, expected {FORMAT}")
    return state, tensors


def _model(start: ServerModel, state: State, tensors: Mapping[str, Tensor]) -> ServerModel:
    for name, expected in start.tensors.items():
        if name not in tensors or tensors[name].shape != expected.shape or tensors[name].dtype != expected.dtype:
            raise CheckpointError(f"its {name} are not of the shape {tuple(expected.shape)}")
    return start.with_tensors(tensors, int(state["steps"]))


def refuse_another_run(started: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ``OptionError`` for the first option that makes this another run than the one that is resumed."""
    for name in sorted(set(started) & set(now) - MAY_CHANGE, key=lambda name: (name in FOLLOWS, name)):
        if started[name] != now[name]:
            raise OptionError(
                f"{name} = {now[name]!r}: the run that is resumed was started with {started[name]!r}. Give the same "
                "value, or start a new run without resume."
            )


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
