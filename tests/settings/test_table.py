"""The table of options: each stands once, its documents are made of it, and its ranges hold."""

import math
import re
from pathlib import Path

import pytest

from attacks import ATTACKS_ON
from client.node_options import NodeOptions
from models import MODELS
from protocol.upload_dtype import KINDS
from server.simulation import PROJECT, default_options
from settings.__main__ import PAGE, PYPROJECT, groups, pyproject, reference
from settings.options import Option, OptionError, Scalar, options_of, read
from settings.reference import Group, as_markdown, by_topic
from settings.run import RunOptions

GROUPS = [*groups(), Group(NodeOptions)]
ROWS = [row for rows in by_topic(groups()).values() for row in rows]
OPTIONS = [row.option for row in ROWS]
BOUNDED = [
    (group, one)
    for group in GROUPS
    for one in options_of(group.kind, group.prefix)
    if {one.declared.at_least, one.declared.above, one.declared.at_most, one.declared.below} != {None}
]
STALE = "is not what the declarations say; `python -m settings --write` brings it up to date"


def meaning_of(name: str) -> str:
    """What the table says of an option."""
    return next(one.declared.meaning for one in OPTIONS if one.name == name)


def test_the_page_of_options_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), f"{PAGE} {STALE}"


def test_the_section_that_flower_reads_is_current() -> None:
    text = PYPROJECT.read_text(encoding="utf-8")
    assert text == pyproject(text), f"{PYPROJECT} {STALE}"


def test_flower_reads_the_names_types_and_defaults_of_the_table() -> None:
    def typed(options: dict[str, Scalar]) -> dict[str, tuple[type, Scalar]]:
        return {name: (type(value), value) for name, value in options.items()}

    assert typed(default_options()) == typed({one.name: one.default for one in OPTIONS})


def test_writing_the_section_leaves_the_rest_of_the_file_alone() -> None:
    before = '[a]\nx = 1\n\n[tool.flwr.app.config]\nold = 3  # [b]\n\n[b]\ny = "[c]"\n'
    after = pyproject(before)
    assert after.startswith("[a]\nx = 1\n\n[tool.flwr.app.config]\n# ")
    assert after.endswith('\n\n[b]\ny = "[c]"\n')
    assert "old = 3" not in after
    assert pyproject(after) == after


def test_every_option_stands_once() -> None:
    names = [one.name for one in OPTIONS]
    assert sorted(names) == sorted(set(names))


def test_every_option_says_what_it_means_and_names_its_choices() -> None:
    for group in GROUPS:
        for one in options_of(group.kind, group.prefix):
            meaning = one.declared.meaning
            assert meaning, one.name
            assert "\n" not in meaning, one.name
            missing = [choice for choice in one.choices if choice not in meaning]
            assert not missing, one.name


def test_what_can_be_chosen_by_name_is_listed() -> None:
    listed = re.findall(r"[\w+-]+", meaning_of("model"))
    assert set(MODELS) <= set(listed)
    listed = re.findall(r"[\w+-]+", meaning_of("attack"))
    assert {name for attacks in ATTACKS_ON.values() for name in attacks} <= set(listed)
    choices = {one.name: one.choices for one in OPTIONS}
    assert set(choices["upload-dtype"]) == set(KINDS)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.prefix or group.kind.__name__)
def test_every_default_is_allowed(group: Group) -> None:
    defaults = {one.name: one.default for one in options_of(group.kind, group.prefix)}
    assert read(group.kind, defaults, group.prefix) == group.kind()


def just_outside(one: Option) -> list[Scalar]:
    """The values next to an option's range that are not in it."""
    whole, declared = one.kind is int, one.declared
    found: list[Scalar] = []
    if declared.at_least is not None:
        low = declared.at_least
        found.append(int(low) - 1 if whole else math.nextafter(low, -math.inf))
    if declared.above is not None:
        found.append(float(declared.above))
    if declared.at_most is not None:
        high = declared.at_most
        found.append(int(high) + 1 if whole else math.nextafter(high, math.inf))
    if declared.below is not None:
        found.append(declared.below if whole else float(declared.below))
    return found


@pytest.mark.parametrize(("group", "one"), BOUNDED, ids=[one.name for _, one in BOUNDED])
def test_values_just_outside_a_range_are_refused_by_the_options_name(group: Group, one: Option) -> None:
    for value in just_outside(one):
        with pytest.raises(OptionError) as error:
            read(group.kind, {one.name: value}, group.prefix)
        assert str(error.value) == f"{one.name} = {value!r}: expected {one.expected}."


def test_only_options_of_a_run_say_that_a_resume_may_change_them_or_that_they_change_no_numbers() -> None:
    """Resumes and the hashes of runs ask ``settings.run`` alone, which does not know attacks and rules."""
    for group in GROUPS:
        if group.kind is not RunOptions:
            for one in options_of(group.kind, group.prefix):
                assert not one.declared.resume, one.name
                assert one.declared.numbers, one.name


def sources(room: str) -> str:
    """All the code of a room."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(Path(PROJECT / room).rglob("*.py")))


def test_who_reads_an_option_is_who_names_it() -> None:
    """A node sees the whole table; what is declared of its readers must be what the rooms do."""
    # What a model reads, it reads on both sides: the server draws its first parameters, nodes train it.
    text = {"server": sources("server") + sources("models"), "node": sources("client") + sources("models")}
    for one in options_of(RunOptions):
        # Plugins' options are read by ``with_plugin_options`` before all others.
        readers = [] if one.field == "plugin_options" else ["server", "node"]
        for reader in readers:
            if one.declared.read_by in (reader, "both"):
                assert re.search(rf"\.{one.field}\b", text[reader]), f"{one.name} is not read by the {reader}"
        if one.declared.read_by == "server":
            assert not re.search(rf"\brun\.{one.field}\b", text["node"]), f"{one.name} is read by nodes too"


def test_a_bar_in_a_meaning_does_not_break_the_table() -> None:
    page = as_markdown(groups(), NodeOptions)
    widths = {line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("| `")}
    assert widths == {8, 5}
