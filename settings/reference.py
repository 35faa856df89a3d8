"""Every option as documentation: a Markdown page, and the section of ``pyproject.toml`` that Flower reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from settings.options import Option, Reader, Scalar, options_of

ABOUT = """\
# Options

`python -m settings --write` makes this page of the declarations in the code.

A run's options are set by their names with `flwr run . --run-config "dataset='ml-1m' seed=1"`, and stand with their
defaults in `pyproject.toml`. A wrong value ends the run before its first round with a sentence that says what
was expected. *Read by*: whether the server or the nodes use the option. *On resume*: whether a resumed run may have
another value. *Numbers*: whether a run with another value computes or leaves something else; the other options say only
where and how a run is made.
"""

ABOUT_NODES = """\
A node has options of its own, set where it is started:
`flower-supernode … --node-config "partition-id=0 num-partitions=3"`.
"""

COMMENTS_FROM = 40
"""The column of ``pyproject.toml`` at which comments stand where the value leaves room."""


@dataclass(frozen=True)
class Group:
    """A dataclass of options: the prefix of their names, the topic under which they are listed, and who reads them.

    ``topic`` is for options that declare none; where ``read_by`` is given, it holds for all.
    """

    kind: type
    prefix: str = ""
    topic: str = ""
    read_by: Reader | None = None


@dataclass(frozen=True)
class Row:
    """One line of the reference."""

    option: Option
    read_by: Reader


def by_topic(groups: Sequence[Group]) -> dict[str, list[Row]]:
    """All options under their topics, both in the order in which they come."""
    found: dict[str, list[Row]] = {}
    for group in groups:
        topic = group.topic
        for one in options_of(group.kind, group.prefix):
            topic = one.declared.topic or topic
            found.setdefault(topic, []).append(Row(one, group.read_by or one.declared.read_by))
    return found


def as_markdown(run: Sequence[Group], node: type) -> str:
    """The reference of a run's options and of a node's own."""
    parts = [ABOUT]
    for topic, rows in by_topic(run).items():
        lines = [
            f"## {topic}\n",
            "| option | default | values | meaning | read by | on resume | numbers |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in rows:
            declared = row.option.declared
            facts = (
                row.read_by,
                "may change" if declared.resume else "stays",
                "change" if declared.numbers else "stay",
            )
            lines.append("| " + " | ".join((*_described(row.option), *facts)) + " |")
        parts.append("\n".join(lines) + "\n")
    lines = ["## A node's own\n", ABOUT_NODES, "| option | default | values | meaning |", "| --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(_described(one)) + " |" for one in options_of(node)]
    return "\n".join([*parts, "\n".join(lines) + "\n"])


def as_toml(run: Sequence[Group]) -> str:
    """The lines of ``[tool.flwr.app.config]``: each option with its default, and its meaning as a comment."""
    lines = []
    for topic, rows in by_topic(run).items():
        lines.append(f"# {topic}")
        for row in rows:
            setting = f"{row.option.name} = {_toml(row.option.default)}"
            lines.append(f"{setting.ljust(COMMENTS_FROM)}  # {row.option.declared.meaning}")
    return "\n".join(lines) + "\n"


def _described(one: Option) -> tuple[str, str, str, str]:
    values = ", ".join(f"`{_toml(choice)}`" for choice in one.choices) or one.expected
    return f"`{one.name}`", f"`{_toml(one.default)}`", values, one.declared.meaning.replace("|", "\\|")


def _toml(value: Scalar) -> str:
    return json.dumps(value, ensure_ascii=False)
