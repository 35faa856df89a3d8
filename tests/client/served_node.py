"""One node as a process serves it, for tests in which several processes serve the same node."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from flwr.app import Context, Message, RecordDict

from client.answers import answer
from protocol.messages import model_record, query_content, request_content
from protocol.requests import EvaluateRequest, GlobalModel, LossOptions, PopulationQuery, TrainRequest
from server.simulation import default_options

RUN, DIM = "run", 8
CHANGED = {"attack": "cluster", "malicious-fraction": 0.05, "embedding-dim": DIM, "cluster-threshold": 0.5}


def begin(run_id: int, folder: Path) -> None:
    """Ask whom the node hosts, as every run does first."""
    _ask(run_id, folder, "query", query_content(PopulationQuery(RUN)))


def serve(run_id: int, folder: Path, step: tuple[str, int, tuple[int, ...], int]) -> str:
    """Answer one request: its kind, round, resumes so far and oldest checkpoint. A digest of the answer."""
    kind, server_round, resumed_at, keep_from = step
    generator = torch.Generator().manual_seed(server_round)
    model = GlobalModel(torch.randn(800, DIM, generator=generator) * 0.2, torch.empty(0))
    # Many of them malicious, and none left out for long, so that both kinds of state depend on every round.
    users = torch.randperm(1000, generator=generator)[:60]
    options = LossOptions(dropout=0.1)
    request: TrainRequest | EvaluateRequest
    if kind == "train":
        request = TrainRequest(server_round, users, RUN, options, resumed_at, keep_from)
    else:
        request = EvaluateRequest(server_round, users, RUN, options, resumed_at, keep_from)
    content = _ask(run_id, folder, kind, request_content(model_record(model), request))
    digest = hashlib.sha256()
    for record in content.array_records.values():
        for name, array in sorted(record.items()):
            digest.update(name.encode() + array.data)
    assert content.array_records
    return digest.hexdigest()


def _ask(run_id: int, folder: Path, kind: str, content: RecordDict) -> RecordDict:
    node = {"partition-id": 0, "num-partitions": 1, "state-dir": str(folder)}
    context = Context(run_id, 1, node, RecordDict(), {**default_options(), **CHANGED})  # type: ignore[arg-type, dict-item]
    return answer(Message(content, 1, kind, group_id="0"), context).content
