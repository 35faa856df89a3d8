"""What ``robust_fedrec.simulate`` returns: a run that ended, read from its directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings.options import Scalar


@dataclass(frozen=True)
class Run:
    """A run that ended: its ``directory``, and its ``summary`` as ``summary.json`` has it.

    ``metrics`` and ``rounds`` are rows, which ``pandas.json_normalize`` makes a data frame of.
    """

    directory: Path
    summary: Mapping[str, Any]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A row an evaluation."""
        return self._rows("metrics.jsonl")

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """A row a round: who took part, who was malicious, whom each rule filtered."""
        return self._rows("rounds.jsonl")

    @property
    def model(self) -> dict[str, Any]:
        """The trained model's tensors by name, ``items`` and ``shared``."""
        from safetensors.torch import load_file

        return dict(load_file(self.directory / "model.safetensors"))

    def report(self, output: Path | None = None) -> Path:
        """Write the run's page; returns its path."""
        from experiments.report.report import write_report

        return write_report([self.directory], output)

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / name).read_text(encoding="utf-8").splitlines()]


def simulated(options: Mapping[str, Scalar]) -> Run:
    """Train with these options, named with "_" or "-"."""
    from server.simulation import simulate

    directory, summary = simulate({name.replace("_", "-"): value for name, value in options.items()})
    return Run(directory, summary)
