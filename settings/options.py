"""Typed options: declared once in a dataclass, read out of a flat run configuration, and checked.

A frozen dataclass is a group of options: its field ``embedding_dim`` is the option ``embedding-dim``,
with the group's prefix in front (``union-num-items``). Types are those of a run configuration: bool,
int, float, str, and ``Literal`` of strings. ``option`` declares a field with its meaning and its range, which
``read`` checks; what concerns several options at once is checked in the group's ``__post_init__``, which
raises ``OptionError``.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Scalar = bool | int | float | str
RunConfig = Mapping[str, Scalar]
Reader = Literal["server", "node", "both"]
Group = TypeVar("Group")
Value = TypeVar("Value", bound=Scalar)

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


def unknown_option(name: str, known: Iterable[str]) -> str:
    """The sentence that says that there is no such option, with the known one that is spelt most like it."""
    alike = difflib.get_close_matches(name, list(known), 1)
    hint = f"did you mean {alike[0]!r}? " if alike else ""
    return f"There is no option {name!r}: {hint}docs/options.md and robust-fedrec list options have all of them."


@dataclass(frozen=True)
class Declaration:
    """What ``option`` says of an option beside its name, type and default."""

    meaning: str = ""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    also: float | None = None
    expected: str = ""
    topic: str = ""
    read_by: Reader = "server"
    resume: bool = False
    numbers: bool = True
    follows: bool = False
    matches: str = ""

    def allows(self, value: Scalar) -> bool:
        """Whether a number is in the range, or a text of the form; a truth value always is."""
        if isinstance(value, str):
            return not self.matches or re.fullmatch(self.matches, value) is not None
        if isinstance(value, bool) or value == self.also:
            return True
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


def option(
    default: Value,
    meaning: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    also: float | None = None,
    expected: str = "",
    topic: str = "",
    read_by: Reader = "server",
    resume: bool = False,
    numbers: bool = True,
    follows: bool = False,
    matches: str = "",
) -> Value:
    """Declare an option: a dataclass field with its default, what it means in one line, and what values it takes.

    ``at_least``, ``above``, ``at_most``, ``below``: its range, and ``also`` one value outside it; ``expected``: the
    range in words, where those made of the numbers would not do. ``topic``: the heading under which the reference
    lists this option and those after it. ``read_by``: who uses it. ``resume``: a resumed run may have another value.
    ``numbers``: a run with another value computes or leaves something else; without it the option says only where
    or how a run is made. ``follows``: where another option changes, this one may change with it. ``matches``: the
    pattern of a text, which ``expected`` says in words.
    """
    known = Declaration(
        meaning, at_least, above, at_most, below, also, expected, topic, read_by, resume, numbers, follows, matches
    )
    return dataclasses.field(default=default, metadata={"option": known})


@dataclass(frozen=True)
class Option:
    """One option of a group: its name in a run configuration, its type, its default, and its declaration."""

    field: str
    name: str
    kind: Any
    default: Scalar
    declared: Declaration

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts that it can be; empty for an option of another type."""
        return typing.get_args(self.kind)

    @property
    def expected(self) -> str:
        """What values it takes, in words."""
        if self.choices:
            return "one of " + ", ".join(map(repr, self.choices))
        return self.declared.expected or _range(self.kind, self.declared)


@functools.cache
def options_of(group: type, prefix: str = "") -> tuple[Option, ...]:
    """The options of a group in the order of its fields. Raises ``OptionError`` for a type that no option can have."""
    # Nodes read a request's options in every round, and resolving the hints takes longer than the rest.
    hints = typing.get_type_hints(group)
    found = []
    for field in dataclasses.fields(group):
        kind = hints[field.name]
        if kind not in KINDS and typing.get_origin(kind) is not typing.Literal:
            raise OptionError(
                f"{group.__name__}.{field.name}: an option cannot be {kind}. Expected bool, int, float, str, or a "
                "Literal of texts."
            )
        default: Any = field.default
        declared = field.metadata.get("option", Declaration())
        found.append(Option(field.name, option_name(field.name, prefix), kind, default, declared))
    return tuple(found)


def read(group: type[Group], run_config: RunConfig, prefix: str = "") -> Group:
    """Build one group of options from a run configuration.

    Missing keys take the field's default. Raises ``OptionError`` where a value has the wrong type, is out of its
    range, or is not among the allowed ones.
    """
    known = options_of(group, prefix)  # type: ignore[arg-type]
    return group(**{one.field: _checked(one, run_config[one.name]) for one in known if one.name in run_config})


def option_name(field: str, prefix: str = "") -> str:
    """``num_items`` with prefix ``union`` is the option ``union-num-items``."""
    return "-".join(part for part in (prefix, field.replace("_", "-")) if part)


def as_run_config(group: object, prefix: str = "") -> dict[str, Scalar]:
    """The inverse of ``read``: the options of a group under their run-configuration names."""
    values = dataclasses.asdict(group)  # type: ignore[call-overload]
    return {option_name(field, prefix): value for field, value in values.items()}


def option_names(group: type, prefix: str = "") -> list[str]:
    """The run-configuration names of a group's options."""
    return [one.name for one in options_of(group, prefix)]


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


def _checked(one: Option, value: Scalar) -> Scalar:
    if one.choices:
        require(value in one.choices, one.name, value, one.expected)
        return value
    if one.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right_type = isinstance(value, one.kind) and (one.kind is bool or not isinstance(value, bool))
    require(right_type, one.name, value, KINDS[one.kind])
    require(not isinstance(value, float) or math.isfinite(value), one.name, value, "a finite number")
    require(one.declared.allows(value), one.name, value, one.expected)
    return value


def _range(kind: Any, declared: Declaration) -> str:
    low, above, high, below = declared.at_least, declared.above, declared.at_most, declared.below
    if kind is int and low is not None and high is None and below is None:
        return f"at least {low}" if low else "0 or more"
    words = [KINDS[kind]]
    words += [f"from {low}"] if low is not None else [f"above {above}"] if above is not None else []
    joint = "to " if low is not None else "and " if above is not None else ""
    words += [f"{joint}below {below}"] if below is not None else []
    words += [f"to {high}" if low is not None else f"{joint}at most {high}"] if high is not None else []
    return " ".join(words)
