"""Everything that a run leaves, without what depends on the clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from client.state.about import kept_states, opened
from client.state.store import Store
from server.simulation import simulate
from settings.options import Scalar

TIMED = {"seconds", "evaluation_seconds", "bytes_down", "bytes_up"}
CLOCK = {"seconds", "evaluation_seconds", "rounds_per_second", "run", "timings"}


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clock(inner) for key, inner in value.items() if key not in CLOCK}
    return [without_clock(inner) for inner in value] if isinstance(value, list) else value


def results(directory: Path) -> dict[str, Any]:
    """All that a run leaves, without what depends on the clock."""
    tensors = load_file(directory / "model.safetensors")
    found: dict[str, Any] = {"model": {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}}
    for name in ("rounds.jsonl", "metrics.jsonl"):
        found[name] = [without_clock(json.loads(line)) for line in (directory / name).read_text().splitlines()]
    found["summary"] = without_clock(json.loads((directory / "summary.json").read_text()))
    return found


def nodes_state(directory: Path) -> dict[str, dict[str, Any]]:
    """What every node keeps (see ``kept``), by its name."""
    return {path.name: kept(opened(path)) for path in kept_states(directory / "nodes")}


def kept(store: Store) -> dict[str, Any]:
    """The users' private vectors with Adam's moments and last rounds, the attacker's state, and the last round."""
    with store.begin():
        users = store.kept_users()
        values, last = store.vectors(users, store.dim() or 0)
        return {
            "users": users.tolist(),
            "rounds": last.tolist(),
            "vectors": values.tobytes(),
            "attack": store.attack(),
            "memory": store.attack_memory(),
            "newest": store.newest(),
        }


def run(output_dir: Path, options: dict[str, Scalar]) -> tuple[Path, dict[str, Any]]:
    return simulate({**options, "output-dir": str(output_dir)})


def model_and_lines(directory: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The final model, and the lines of metrics and rounds without what depends on the clock or the division."""
    text = (directory / "metrics.jsonl").read_text() + (directory / "rounds.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return load_file(directory / "model.safetensors"), [
        {name: value for name, value in line.items() if name not in TIMED} for line in lines
    ]


def assert_same(first: Path, second: Path) -> None:
    """The same model, to the bit, and the same lines."""
    one, other = model_and_lines(first), model_and_lines(second)
    assert one[0].keys() == other[0].keys() == {"items", "shared"}
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert one[1] == other[1]
