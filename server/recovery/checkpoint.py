"""Checkpoints: a run's state after a round, complete or not there at all.

A checkpoint is one safetensors file: the model's tensors, and in its metadata the rest of the state as JSON and a
SHA-256 of both. It is written under another name, synced and renamed. Nodes keep no copy: they undo what came after.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from flwr.common.logger import log
from torch import Tensor

from server.results.storage import sync_folder, write_atomically
from server.state import RunState
from settings.options import OptionError
from settings.run import declaration
from strategies.server_model import ServerModel

FORMAT = 4

FOLDER = "checkpoints"
"""Where a run directory has them."""

About = Mapping[str, Any]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the text says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A run's state, and which run it is (``about``): its options, its nodes, how long its files of lines were."""

    state: RunState
    about: About


class Checkpoints:
    """The checkpoints of one run directory, of which the last ``keep`` stay."""

    def __init__(self, directory: Path, keep: int) -> None:
        self._folder = directory / FOLDER
        self._keep = keep

    def write(self, checkpoint: Checkpoint) -> None:
        """Write one, and delete those that are too many. Raises ``OSError``."""
        self._folder.mkdir(exist_ok=True)
        write_atomically(self._folder / name_of(checkpoint.state.round), as_bytes(checkpoint))
        for path in checkpoint_files(self._folder)[: -self._keep]:
            path.unlink()

    def oldest(self) -> int:
        """The round of the oldest one: how far a resume may go back."""
        return round_of(checkpoint_files(self._folder)[0])

    def newest_usable(self, start: ServerModel, check: Callable[[About], None], upto: str = "") -> Checkpoint:
        """The newest that is undamaged (of those up to the name ``upto``, where given), for a model like ``start``.

        ``check`` raises ``CheckpointError`` for a run that does not fit what else is on disk. Each refused one is
        logged with its reason. Raises ``OptionError`` where none is left.
        """
        refused = []
        for path in reversed(checkpoint_files(self._folder)):
            if upto and path.name > upto:
                continue
            try:
                content, tensors = read(path)
                check(content["about"])
                return Checkpoint(_state(start, content["state"], tensors), content["about"])
            except OptionError:
                raise
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                log(WARNING, "The checkpoint %s is refused: %s.", path, error)
                refused.append(f"{path.name}: {error}")
        raise OptionError(
            f"There is nothing to resume from in {self._folder}. "
            + ("; ".join(refused) or "It holds no checkpoint")
            + "."
        )

    def forget_after(self, server_round: int) -> None:
        """Set aside the checkpoints of later rounds: they belong to a lineage of the run that is abandoned."""
        for path in checkpoint_files(self._folder):
            if round_of(path) > server_round:
                path.replace(path.with_suffix(".abandoned"))
        sync_folder(self._folder)

    def resumes(self) -> tuple[int, ...]:
        """After which round each resume so far took the run up. Raises ``OptionError`` where the file is damaged."""
        path = self._folder / "resumes.json"
        try:
            found = json.loads(path.read_text())["resumed_at"]
            if not all(type(number) is int and number >= 0 for number in found):
                raise ValueError(f"{str(found)[:80]} are not rounds")
            return tuple(found)
        except FileNotFoundError:
            return ()
        except Exception as error:
            raise OptionError(f"{path} cannot be read ({error}): nodes could not be told where to go on.") from error

    def note_resumes(self, resumed_at: tuple[int, ...]) -> None:
        """Remember the resumes, before any node hears of the last one. Raises ``OSError``."""
        write_atomically(self._folder / "resumes.json", json.dumps({"resumed_at": resumed_at}).encode())


def checkpoint_files(folder: Path) -> list[Path]:
    """A run's checkpoints, the oldest first; a file of another name, such as somebody's copy of one, is none."""
    return sorted(path for path in folder.glob("round-*.safetensors") if is_checkpoint(path))


def is_checkpoint(path: Path) -> bool:
    """Whether a file has the name of a checkpoint."""
    return NAME.fullmatch(path.name) is not None


NAME = re.compile(r"round-\d{9,}\.safetensors")


def name_of(server_round: int) -> str:
    """The file name of a round's checkpoint; names sort as rounds do."""
    return f"round-{server_round:09d}.safetensors"


def round_of(path: Path) -> int:
    """The inverse of ``name_of``."""
    return int(path.stem.removeprefix("round-"))


def as_bytes(checkpoint: Checkpoint) -> bytes:
    """The file's content."""
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.state.model.tensors.items()}
    found = {"format": FORMAT, "state": checkpoint.state.as_json(), "about": checkpoint.about}
    text = json.dumps(found, allow_nan=False)
    content: bytes = safetensors.torch.save(tensors, {"state": text, "sha256": _digest(text, tensors)})
    return content


def read(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """A checkpoint's ``state`` and ``about`` as JSON, and its tensors.

    Raises ``CheckpointError`` where it is not as it was written.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — it is no dict
        text, stated = metadata["state"], metadata["sha256"]
        if _digest(text, tensors) != stated:
            raise CheckpointError("its checksum is wrong: it was changed after it was written")
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise CheckpointError(f"it has the format {found['format']}, expected {FORMAT}")
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"it has no {error} in its metadata") from error
    except Exception as error:
        # Whatever stands in a file must not end more than the use of this file.
        raise CheckpointError(f"it cannot be read ({error})") from error
    return found, tensors


def _state(start: ServerModel, found: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> RunState:
    for name, expected in start.tensors.items():
        if name not in tensors or tensors[name].shape != expected.shape or tensors[name].dtype != expected.dtype:
            raise CheckpointError(f"its {name} are not of the shape {tuple(expected.shape)}")
    return RunState.of_json(found, start.with_tensors(tensors, int(found["steps"])))


def refuse_another_run(started: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ``OptionError`` for the first option that makes this another run than the one that is resumed."""
    # What follows from other options comes last: they are the ones to name.
    for name in sorted(set(started) & set(now), key=lambda name: (declaration(name).follows, name)):
        if started[name] != now[name] and not declaration(name).resume:
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
