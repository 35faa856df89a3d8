"""The files of a run hold what their schemas say, and the schemas and their page are those of the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from what_runs_leave import run

from server.results.__main__ import made
from server.results.schemas import schemas
from settings.options import Scalar

SMALL: dict[str, Scalar] = {
    "engine": "local",
    "num-nodes": 2,
    "num-server-rounds": 2,
    "eval-every": 1,
    "clients-per-round": 12,
    "embedding-dim": 8,
    "malicious-fraction": 0.25,
    "tracker": "none",
}
RUNS: dict[str, dict[str, Scalar]] = {
    "completed": {"attack": "cluster", "defense": "union+norm-bound"},
    "images": {"model": "lenet", "dataset": "synthetic-images", "num-clients": 6, "clients-per-round": 4,
               "local-epochs": 1, "num-server-rounds": 1, "attack": "deep-poisoning", "defense": "norm-bound"},
    "not evaluated": {"dataset": "too-short.csv", "columns": "user=user item=item time=time"},
}  # fmt: skip


def documents(path: Path) -> list[Any]:
    text = path.read_text()
    return [json.loads(one) for one in (text.splitlines() if path.suffix == ".jsonl" else [text])]


@pytest.mark.parametrize("name", RUNS)
def test_a_runs_files_are_what_their_schemas_say(name: str, tmp_path: Path) -> None:
    """Of recommenders, of images, and where no user has enough interactions to be evaluated: no metric is known."""
    options = {**SMALL, **RUNS[name]}
    if name == "not evaluated":
        rows = [f"{user},{item},{item}" for user in range(20) for item in (user % 7, 7)]
        (tmp_path / "too-short.csv").write_text("\n".join(["user,item,time", *rows]))
        options["dataset"] = str(tmp_path / "too-short.csv")
    directory, summary = run(tmp_path, options)
    assert summary["status"] == ("completed" if name == "images" else name)
    for file, schema in schemas().items():
        Draft202012Validator.check_schema(schema)
        found = documents(directory / file)
        assert found
        for one in found:
            assert [error.message for error in Draft202012Validator(schema).iter_errors(one)] == [], file
            assert not Draft202012Validator(schema).is_valid({**one, "another": 1})


def test_the_page_and_the_schemas_are_those_of_the_code() -> None:
    for path, text in made().items():
        assert path.read_text() == text, f"{path.name}: `python -m server.results --write` brings it up to date"
