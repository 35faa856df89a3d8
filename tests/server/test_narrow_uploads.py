"""Fewer bytes: rounded uploads change results little."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from server.config import server_config
from server.simulation import default_options, simulate
from settings.options import OptionError

SHORT = {
    "engine": "local",
    "num-nodes": 2,
    "num-server-rounds": 8,
    "clients-per-round": 5,
    "embedding-dim": 8,
    "eval-every": 3,
    "eval-users": 50,
    "checkpoint-every": 0,
    "tracker": "none",
}


def run(folder: Path, **options: object) -> tuple[torch.Tensor, dict, list[dict]]:
    """The model, the summary and the rounds' lines of a short run."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    directory, summary = simulate({**SHORT, "output-dir": str(folder), **named})  # type: ignore[dict-item]
    model = safetensors.torch.load_file(directory / "model.safetensors")["items"]
    lines = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    return model, summary, lines


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("attack", ["none", "cluster"])
def test_half_the_bytes_and_nearly_the_same_model(kind: str, attack: str, tmp_path: Path) -> None:
    options = {"attack": attack, "malicious_fraction": 0.3, "learning_rate": 1e-3}
    exact, _, lines = run(tmp_path / "a", **options)
    rounded, summary, narrow = run(tmp_path / "b", upload_dtype=kind, **options)
    assert not torch.equal(exact, rounded)
    # Adam moves a value by about the learning rate a round, whatever its gradient's size: only a sign can differ.
    moved = exact.sub(rounded).abs()
    assert moved.max() <= 2 * 8 * 1.1e-3
    assert moved.median() < 1e-3 * 2**-6
    assert not summary["rejected"]
    assert [line["users"] for line in lines] == [line["users"] for line in narrow]
    for whole, half in zip(lines, narrow, strict=True):
        # An item's index takes 8 bytes beside the row's 8 values: 40 bytes become 24.
        assert half["bytes_up"] < 0.72 * whole["bytes_up"]


def test_float32_is_sent_as_it_is(tmp_path: Path) -> None:
    assert torch.equal(run(tmp_path / "a")[0], run(tmp_path / "b", upload_dtype="float32")[0])


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(OptionError, match="'float32', 'float16', 'bfloat16'"):
        server_config({**default_options(), "upload-dtype": "float8"})
