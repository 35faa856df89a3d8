"""A run's results on disk: what was asked, every evaluation, every round, and the summary."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import safetensors.torch

from protocol.requests import GlobalModel
from server.outcome import RoundOutcome
from server.results.files import RoundLine, RuleLine
from server.results.storage import storing, write_atomically
from server.results.tally import finite

LINES = ("rounds.jsonl", "metrics.jsonl")

PACKAGES = ("flwr", "torch", "numpy", "scipy", "scikit-learn", "ray", "grpcio")


class Recorder:
    """Writes into one run directory; a line a round and a line an evaluation, so that a killed run has its past.

    This is the run's record, and no observer: what cannot be written here would be lost, so that everything raises
    ``StorageError`` where the disk refuses. ``positions``: how many bytes of each file a resumed run keeps; without,
    the files begin anew.
    """

    def __init__(self, directory: Path, positions: Mapping[str, int] | None = None) -> None:
        self._directory = directory
        with storing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._lines = {name: _opened(directory / name, (positions or {}).get(name, 0)) for name in LINES}

    def config(self, options: dict[str, Any]) -> None:
        """Every option as used, and what it ran on."""
        versions = {name: _version(name) for name in PACKAGES}
        machine = {"python": platform.python_version(), "platform": platform.platform()}
        self._write("config.json", {"options": options, "versions": versions, "machine": machine})

    def round(self, line: Mapping[str, Any]) -> None:
        """One line of ``rounds.jsonl``, as ``round_line`` makes it."""
        self._line("rounds.jsonl", line)

    def evaluation(self, line: Mapping[str, Any]) -> None:
        """One line of ``metrics.jsonl``; what was written so far is on disk after it."""
        self._line("metrics.jsonl", line)
        with storing(self._directory):
            for file in self._lines.values():
                file.flush()

    def positions(self) -> dict[str, int]:
        """How many bytes each file of lines has, all of them on disk."""
        with storing(self._directory):
            sizes = {}
            for name, file in self._lines.items():
                file.flush()
                os.fsync(file.fileno())
                sizes[name] = os.fstat(file.fileno()).st_size
        return sizes

    def summary(self, summary: dict[str, Any]) -> None:
        """``summary.json``, complete or not at all."""
        self._write("summary.json", summary)

    def model(self, model: GlobalModel, item_ids: list[str], run: str) -> None:
        """``model.safetensors``: ``items``, ``shared``; in its metadata the item ids as JSON, and the ``run``'s name.

        That is the one under which nodes keep what is private to them.
        """
        tensors = {"items": model.items.contiguous(), "shared": model.shared.contiguous()}
        content = safetensors.torch.save(tensors, {"item_ids": json.dumps(item_ids), "run": run})
        with storing(self._directory):
            write_atomically(self._directory / "model.safetensors", content)

    def close(self) -> None:
        """Close the files of a run that ends."""
        with storing(self._directory), ExitStack() as closing:
            for file in self._lines.values():
                closing.callback(file.close)

    def _line(self, name: str, line: Mapping[str, Any]) -> None:
        with storing(self._directory):
            self._lines[name].write(json.dumps(line, allow_nan=False) + "\n")

    def _write(self, name: str, content: dict[str, Any]) -> None:
        with storing(self._directory):
            write_atomically(self._directory / name, (json.dumps(content, indent=2) + "\n").encode())


def _opened(path: Path, size: int) -> TextIO:
    """A file of lines of which the first ``size`` bytes stay."""
    if size:
        os.truncate(path, size)
    return path.open("a" if size else "w", encoding="utf-8")


def round_line(outcome: RoundOutcome) -> RoundLine:
    """What there is to say of a round."""
    intake, within = outcome.intake, outcome.within
    came = intake.updates.users.numpy() if intake.updates is not None else np.empty(0, np.int64)
    rules = {
        verdict.rule: cast(
            RuleLine,
            {
                "filtered": verdict.users[~verdict.kept].tolist(),
                "scores": [finite(float(f"{score:.6g}")) for score in verdict.scores.tolist()],
                **{name: finite(value) for name, value in verdict.notes.items()},
            },
        )
        for verdict in outcome.verdicts
    }
    return {
        "round": outcome.server_round,
        "asked": outcome.asked,
        "updates": len(came),
        "skipped": outcome.aggregate is None,
        "loss": intake.mean_loss,
        "users": came.tolist(),
        "malicious": came[np.isin(came, outcome.attackers)].tolist(),
        "rules": rules,
        "bounded": {"weights": within.weights, "values": within.values} if within else None,
        "attack": intake.attack,
        "rejected": {str(user): reason for user, reason in intake.rejected.items()},
        "reasons": intake.reasons,
        "failed_nodes": {str(node): reason for node, reason in intake.failed.items()},
        "quarantined": list(outcome.quarantined),
        "bytes_up": intake.num_bytes,
        "bytes_down": outcome.bytes_down,
        "seconds": round(outcome.seconds, 6),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
