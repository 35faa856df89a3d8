"""A run's results on disk: what was asked, every evaluation, every round, and the summary."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import safetensors.torch

from protocol.requests import GlobalModel
from strategies.fedrec import RoundOutcome

PACKAGES = ("flwr", "torch", "numpy", "scipy", "scikit-learn", "ray", "grpcio")


@dataclass
class Recorder:
    """Writes into one run directory; a line a round and a line an evaluation, so that a killed run has its past.

    ``malicious``: the malicious users' ids in ascending order, to say of a filtered user which it was.
    """

    directory: Path
    malicious: np.ndarray

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._rounds = self._open("rounds.jsonl")
        self._metrics = self._open("metrics.jsonl")

    def config(self, options: dict[str, Any]) -> None:
        """Every option as used, and what it ran on."""
        versions = {name: _version(name) for name in PACKAGES}
        machine = {"python": platform.python_version(), "platform": platform.platform()}
        self._write("config.json", {"options": options, "versions": versions, "machine": machine})

    def round(self, outcome: RoundOutcome, seconds: float) -> None:
        """One line of ``rounds.jsonl``."""
        self._rounds.write(json.dumps(round_line(outcome, self.malicious, seconds)) + "\n")

    def evaluation(self, line: dict[str, Any]) -> None:
        """One line of ``metrics.jsonl``; what was written so far is on disk after it."""
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()
        self._rounds.flush()

    def summary(self, summary: dict[str, Any]) -> None:
        """``summary.json``, whole or not at all."""
        self._write("summary.json", summary)

    def model(self, model: GlobalModel, item_ids: list[str]) -> None:
        """``model.safetensors``: ``items``, ``shared``, and the item ids as JSON in its metadata."""
        tensors = {"items": model.items.contiguous(), "shared": model.shared.contiguous()}
        partial = self.directory / "model.safetensors.partial"
        safetensors.torch.save_file(tensors, partial, {"item_ids": json.dumps(item_ids)})
        partial.replace(self.directory / "model.safetensors")

    def close(self) -> None:
        """Close the files."""
        self._rounds.close()
        self._metrics.close()

    def _open(self, name: str) -> TextIO:
        return (self.directory / name).open("w", encoding="utf-8")

    def _write(self, name: str, content: dict[str, Any]) -> None:
        partial = self.directory / f"{name}.partial"
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.directory / name)


def round_line(outcome: RoundOutcome, malicious: np.ndarray, seconds: float) -> dict[str, Any]:
    """What there is to say of a round.

    ``malicious``: the malicious users whose updates came in; ``rules``: for each rule whom it filtered,
    and its notes; ``attack``: the attacker's own numbers, as the simulated one tells them.
    """
    intake = outcome.intake
    came = intake.updates.users.numpy() if intake.updates is not None else np.empty(0, np.int64)
    verdicts = outcome.aggregate.verdicts if outcome.aggregate is not None else ()
    rules = {verdict.rule: {"filtered": verdict.users[~verdict.kept].tolist(), **verdict.notes} for verdict in verdicts}
    return {
        "round": outcome.server_round,
        "asked": outcome.asked,
        "updates": len(came),
        "skipped": outcome.aggregate is None,
        "loss": intake.mean_loss,
        "malicious": came[np.isin(came, malicious)].tolist(),
        "rules": rules,
        "attack": intake.attack,
        "rejected": {str(user): reason for user, reason in intake.rejected.items()},
        "reasons": intake.reasons,
        "failed_nodes": {str(node): reason for node, reason in intake.failed.items()},
        "quarantined": list(outcome.quarantined),
        "bytes_up": intake.num_bytes,
        "bytes_down": outcome.bytes_down,
        "seconds": round(seconds, 6),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
