"""Typed options out of a flat run configuration.

A frozen dataclass is a group of options: its field ``embedding_dim`` is the option ``embedding-dim``,
with the group's prefix in front (``union-num-items``). Types are those of a run configuration: bool,
int, float, str, and ``Literal`` of strings. Ranges are checked in the group's ``__post_init__``, which
raises ``OptionError``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import tomllib
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Scalar = bool | int | float | str
RunConfig = Mapping[str, Scalar]
Group = TypeVar("Group")

KINDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
"""What an option's value can be, in words."""

PLUGIN_OPTION = re.compile(r"""([\w-]+)=('[^']*'|"[^"]*"|[^\s'"]+)(?:\s+|$)""")
"""One option and its value in ``plugin-options``."""


class OptionError(ValueError):
    """An option has a value that cannot be used; the text is a sentence for the person who set it."""


def require(condition: bool, option: str, value: object, expected: str) -> None:
    """Raise ``OptionError`` naming the option, its value and what was expected, unless the condition holds."""
    if not condition:
        raise OptionError(f"{option} = {value!r}: expected {expected}.")


def read(group: type[Group], run_config: RunConfig, prefix: str = "") -> Group:
    """Build one group of options from a run configuration.

    Missing keys take the field's default. Raises ``OptionError`` where a value has the wrong type or is
    not among the allowed ones.
    """
    hints = _type_hints(group)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for field in dataclasses.fields(group):  # type: ignore[arg-type]
        name = option_name(field.name, prefix)
        if name in run_config:
            values[field.name] = _convert(name, run_config[name], hints[field.name])
    return group(**values)


@functools.cache
def _type_hints(group: type) -> dict[str, Any]:
    # Nodes read a request's options in every round, and resolving the hints takes longer than the rest.
    hints = typing.get_type_hints(group)
    for field in dataclasses.fields(group):
        kind = hints[field.name]
        if kind not in KINDS and typing.get_origin(kind) is not typing.Literal:
            raise OptionError(
                f"{group.__name__}.{field.name}: an option cannot be {kind}. Expected bool, int, float, str, or a "
                "Literal of texts."
            )
    return hints


def option_name(field: str, prefix: str = "") -> str:
    """``num_items`` with prefix ``union`` is the option ``union-num-items``."""
    return "-".join(part for part in (prefix, field.replace("_", "-")) if part)


def as_run_config(group: object, prefix: str = "") -> dict[str, Scalar]:
    """The inverse of ``read``: the options of a group under their run-configuration names."""
    values = dataclasses.asdict(group)  # type: ignore[call-overload]
    return {option_name(field, prefix): value for field, value in values.items()}


def option_names(group: type, prefix: str = "") -> list[str]:
    """The run-configuration names of a group's options."""
    return [option_name(field.name, prefix) for field in dataclasses.fields(group)]


def with_plugin_options(run_config: RunConfig) -> RunConfig:
    """The run configuration with what its option ``plugin-options`` holds: the options of a user's own classes.

    Flower refuses options that the app does not declare, so they travel as one text of the form
    "my-strength=3 my-mode='x'", with values as in TOML. Raises ``OptionError`` for another form, and for an
    option of the app itself.
    """
    text = str(run_config.get("plugin-options", ""))
    pairs = PLUGIN_OPTION.findall(text)
    form = "options like \"my-strength=3 my-mode='x'\", with values as in TOML"
    require(not PLUGIN_OPTION.sub("", text).strip(), "plugin-options", text, form)
    try:
        found = tomllib.loads("\n".join(f"{name} = {value}" for name, value in pairs))
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"plugin-options = {text!r}: {error}. Expected {form}.") from error
    for name, value in found.items():
        require(isinstance(value, Scalar), "plugin-options", text, form)
        clash = run_config.get(name, value) != value
        require(
            not clash, "plugin-options", name, "an option of your own; give this one, which is the app's, by itself"
        )
    return {**run_config, **found}


def _convert(name: str, value: Scalar, kind: Any) -> Scalar:
    if typing.get_origin(kind) is typing.Literal:
        allowed = typing.get_args(kind)
        require(value in allowed, name, value, "one of " + ", ".join(map(repr, allowed)))
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right_type = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    require(right_type, name, value, KINDS[kind])
    require(not isinstance(value, float) or math.isfinite(value), name, value, "a finite number")
    return value
