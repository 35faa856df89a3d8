"""Fewer bytes: rounded uploads change results little, and changed rows in place of the model change nothing at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client import kept_models
from server.config import server_config
from server.grids.local_grid import LocalGrid
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


@pytest.mark.parametrize("attack", ["none", "cluster"])
@pytest.mark.parametrize("decay", [0.0, 1e-5])
def test_changed_rows_give_the_same_run_to_the_bit(decay: float, attack: str, tmp_path: Path) -> None:
    options = {"weight_decay": decay, "attack": attack, "malicious_fraction": 0.02, "cluster_rows": "touched"}
    whole, before, lines = run(tmp_path / "a", **options)
    changed, after, fewer = run(tmp_path / "b", download="changes", **options)
    assert torch.equal(whole, changed)
    assert before["test"] == after["test"]
    for one, other in zip(lines, fewer, strict=True):
        assert {**one, "seconds": 0, "bytes_down": 0} == {**other, "seconds": 0, "bytes_down": 0}
        assert other["bytes_down"] <= one["bytes_down"]
    # The model of an evaluation is that of the round after it: there is nothing to send again.
    assert fewer[3]["bytes_down"] < lines[3]["bytes_down"] / 10
    if decay == 0:
        # Rows that nobody touched stay as they are.
        assert fewer[1]["bytes_down"] < 0.8 * lines[1]["bytes_down"]
    else:
        # The L2 term moves every row in every round.
        assert fewer[1]["bytes_down"] == lines[1]["bytes_down"]


def test_a_node_that_forgot_its_model_gets_the_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _, lines = run(tmp_path / "a", weight_decay=0.0)
    push = LocalGrid.push_messages
    sent = []

    def forgetting(grid: LocalGrid, messages: list[Message]) -> object:
        messages = list(messages)
        sent.append(len(messages))
        if len(sent) % 3 == 0:
            kept_models._kept.clear()
        return push(grid, messages)

    monkeypatch.setattr(LocalGrid, "push_messages", forgetting)
    changed, summary, fewer = run(tmp_path / "b", weight_decay=0.0, download="changes")
    assert torch.equal(whole, changed)
    assert not summary["failed_answers"]
    assert not summary["rejected"]
    assert any(other["bytes_down"] > one["bytes_down"] for one, other in zip(lines, fewer, strict=True))


def test_a_node_of_another_course_of_the_run_lacks_the_model() -> None:
    from protocol.downloads import Version, changes_record, is_lacking, version_record
    from protocol.messages import model_record, read_model, request_content
    from protocol.requests import GlobalModel, TrainRequest

    model = GlobalModel(torch.randn(6, 2), torch.empty(0))
    later = GlobalModel(model.items.clone(), model.shared)
    later.items[3] += 1
    context, seen = Context(1, 1, {}, RecordDict(), {}), []

    def ask(record: object, version: Version, resumed_at: tuple[int, ...] = ()) -> Message:
        request = TrainRequest(1, torch.tensor([0]), "run", resumed_at=resumed_at)
        content = request_content(record, request)  # type: ignore[arg-type]
        content["download"] = version_record(version)
        message = Message(content, 1, "train", group_id="1")

        def app(message: Message, context: Context) -> Message:
            seen.append(read_model(message.content).items)
            return Message(RecordDict({"reply": ConfigRecord()}), reply_to=message)

        return kept_models.completing(message, context, app)

    changes = changes_record(torch.tensor([3]), later)
    kept_models._kept.clear()
    assert is_lacking(ask(changes, Version(2, 1)).content)
    assert not is_lacking(ask(model_record(model), Version(1)).content)
    assert is_lacking(ask(changes, Version(2, 1), resumed_at=(5,)).content)
    assert not is_lacking(ask(changes, Version(2, 1)).content)
    assert is_lacking(ask(changes, Version(2, 1)).content)
    assert [table.tolist() for table in seen] == [model.items.tolist(), later.items.tolist()]
