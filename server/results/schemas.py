"""JSON schemas and the page of the files of a run's directory, made of their types in ``server.results.files``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import is_typeddict

from server.results import files

Schema = dict[str, Any]

ABOUT = """\
# The files of a run

`python -m server.results --write` makes this page and the [JSON schemas](#schemas) of the types in the code. A run's
directory is `output-dir`/`run-name`; the run's first and last lines say where it is.

| file | what it holds |
| --- | --- |
| `config.json` | what was asked, and what it ran on |
| `rounds.jsonl` | a line a round: who took part, whom each rule filtered, by which score |
| `metrics.jsonl` | a line an evaluation |
| `summary.json` | how the run ended, and its results; written at its end |
| `model.safetensors` | the tensors `items` and `shared`; its metadata has `item_ids`, a JSON list, an id a row |
| `updates/round-N.safetensors` | with `record-updates`: what the server received in a round, and the model before it |
| `checkpoints/` | with `checkpoint-every`: what a [resume](deployment.md#when-something-dies) goes on from |
| `nodes/` | what simulated nodes keep, a folder a node, each with one SQLite file |
| `events.out.tfevents.…` | with TensorBoard installed: the same numbers for it |
| `report.html` | once `robust-fedrec report` made it: the run's page |

A line is written when its round ends, so that a run that was killed has its past; a resumed run keeps the lines up to
the checkpoint that it goes on from. The schemas are those of this version of the program, and allow no other field.
"""


def schemas() -> dict[str, Schema]:
    """The JSON schema of each file, or of each of its lines, by the file's name."""
    for kind in vars(files).values():
        if is_typeddict(kind):
            extra: Literal["allow", "forbid"] = "allow" if kind is files.RuleLine else "forbid"
            with_config(ConfigDict(extra=extra, use_attribute_docstrings=True))(kind)
    return {
        name: {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(kind).json_schema()}
        for name, kind in files.FILES.items()
    }


def schema_name(file: str) -> str:
    """The name of a file's schema: ``rounds.schema.json`` of ``rounds.jsonl``."""
    return f"{file.partition('.')[0]}.schema.json"


def as_markdown(made: Mapping[str, Schema]) -> str:
    """The page of these schemas."""
    parts = [ABOUT]
    for file, schema in made.items():
        parts.append(f"## {file}\n\n{_fields(schema)}")
        parts += [f"### {name}\n\n{_fields(part)}" for name, part in schema.get("$defs", {}).items()]
    links = ", ".join(f"[{schema_name(file)}](schemas/{schema_name(file)})" for file in made)
    parts.append(f"## Schemas\n\nOf the whole file, or of each line of a `.jsonl`: {links}.\n")
    return "\n".join(parts).replace("``", "`")


def _fields(schema: Schema) -> str:
    required = schema.get("required", [])
    rows = [
        f"| `{name}` | {_kind(field)}{'' if name in required else ', or not there'} | {field['description']} |"
        for name, field in schema["properties"].items()
    ]
    return "\n".join([schema["description"], "", "| field | holds | meaning |", "| --- | --- | --- |", *rows, ""])


def _kind(field: Schema) -> str:
    """What a field holds, in words."""
    if "anyOf" in field:
        return " or ".join(map(_kind, field["anyOf"]))
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if field["type"] == "array":
        return f"list ({_kind(field['items'])})"
    if field["type"] == "object":
        return f"by name ({_kind(field['additionalProperties'])})"
    words = {"integer": "whole number", "string": "text", "boolean": "yes or no"}
    return words.get(field["type"], str(field["type"]))
