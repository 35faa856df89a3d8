"""What docs/extending.md says is true: its files and its command run as they stand there."""

import json
import math
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from client.app import app
from experiments.papers.replay import replay
from server.config import server_config
from server.grids.local_grid import LocalGrid
from server.population.nodes import discover
from server.population.population import PopulationError
from server.simulation import PROJECT, default_options, simulate
from settings.options import OptionError, Scalar, read, with_plugin_options

PAGE = (PROJECT / "docs" / "extending.md").read_text()
FOLDER = "/path/to/your/folder"
QUICK: dict[str, Scalar] = {
    "engine": "local",
    "num-nodes": 2,
    "num-server-rounds": 6,
    "eval-every": 3,
    "embedding-dim": 8,
    "clients-per-round": 40,
}


def code_after(phrase: str, language: str) -> str:
    """The first block of code of a language after a phrase of the page."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE[PAGE.index(phrase) :], re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's two modules in a folder of their own, forgotten after the test."""
    for name in ("my_attack", "my_rule"):
        (tmp_path / f"{name}.py").write_text(code_after(f"`{name}.py`", "python"))
        monkeypatch.delitem(sys.modules, name, raising=False)
    with (tmp_path / "my_attack.py").open("a") as file:
        file.write(code_after("## A metric", "python"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("my_attack", "my_rule"):
        sys.modules.pop(name, None)


def command_options(folder: Path) -> dict[str, Scalar]:
    """The options of the page's command, as Flower reads them, with the folder that is there."""
    words = shlex.split(code_after("## Running them", "sh"))
    assert words[:5] == ["flwr", "run", ".", "--stream", "--run-config"]
    return parse_config_args([words[5].replace(FOLDER, str(folder))])


def test_the_classes_of_the_page_run_by_the_command_of_the_page(plugins: Path, tmp_path: Path) -> None:
    directory, summary = simulate({**command_options(plugins), **QUICK, "output-dir": str(tmp_path / "runs")})
    assert summary["status"] == "completed"
    assert summary["failed_answers"] == 0
    # Fifty times the honest length: the rule finds every one of them.
    assert summary["detection"]["median-norm"]["recall"] == 1.0
    config = json.loads((directory / "config.json").read_text())["options"]
    assert config["turned-strength"] == 50.0
    assert config["median-norm-factor"] == 2.5


def test_their_options_have_an_effect(plugins: Path, tmp_path: Path) -> None:
    """An attacker that is no longer than others, and a rule that looks away, are another run; a metric is counted."""
    options = {**command_options(plugins), **QUICK, "output-dir": str(tmp_path / "runs")}
    options |= {"attack": "my_attack:TurnedAndMeasured"}
    _, summary = simulate({**options, "plugin-options": "turned-strength=1 median-norm-factor=1e9"})
    assert summary["status"] == "completed"
    assert summary["detection"]["median-norm"]["recall"] == 0.0
    # NDCG@5 counts a first place as 1, and the second to the fifth as 1 / log2(3) to 1 / log2(6).
    first, others = summary["test"]["first@1"], summary["test"]["hr@5"] - summary["test"]["first@1"]
    assert first + others / math.log2(6) <= summary["test"]["ndcg@5"] <= first + others / math.log2(3)


def test_the_run_from_python_is_the_same_run(plugins: Path) -> None:
    code = code_after("From Python the", "python")
    assert "simulate(" in code
    given: dict[str, Scalar] = eval(code[code.index("{") : code.rindex("}") + 1])
    assert {**given, "plugin-dir": str(plugins)} == command_options(plugins)


@pytest.mark.parametrize("name", ["my_attack", "my_rule"])
def test_twenty_lines_are_enough(name: str) -> None:
    lines = [line for line in code_after(f"`{name}.py`", "python").splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("from ", "import "))]) <= 20


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "turned-strenght=3",
            "plugin-options = 'turned-strenght': expected one of median-norm-factor, turned-strength",
        ),
        ("turned-strength='strong'", "turned-strength = 'strong': expected a number"),
        ("turned-strength=-1", "turned-strength = -1.0: expected a number above 0"),
        ("median-norm-factor=0.5", "median-norm-factor = 0.5: expected a number from 1"),
        ("turned-strength 3", "expected options like"),
        ("turned-strength=3 turned-strength=4", "expected options like|Expected options like"),
        ("turned-strength=[3]", "expected options like"),
        ("seed=3", "plugin-options = 'seed': expected an option of your own"),
    ],
)
def test_a_wrong_option_of_yours_stops_the_run_with_a_sentence(plugins: Path, given: str, expected: str) -> None:
    options = {**default_options(), **command_options(plugins), "plugin-options": given}
    with pytest.raises(OptionError, match=expected):
        server_config(options)


def test_options_without_a_class_of_yours_are_refused() -> None:
    with pytest.raises(OptionError, match="no class of yours is used"):
        server_config({**default_options(), "plugin-options": "my-strength=3"})


def test_the_form_of_the_text_is_that_of_a_run_config() -> None:
    text = """my-strength=3 my-mode='x y' my-name="it's" my-share=0.5 my-flag=true"""
    found = with_plugin_options({"seed": 1, "plugin-options": text})
    assert found == {
        "seed": 1,
        "plugin-options": text,
        "my-strength": 3,
        "my-mode": "x y",
        "my-name": "it's",
        "my-share": 0.5,
        "my-flag": True,
    }
    assert with_plugin_options(found) == found


def test_a_node_without_the_attacks_file_is_refused_before_the_first_round(plugins: Path, tmp_path: Path) -> None:
    """On a machine of its own the folder may be missing; every attacked round would fail and none be attacked."""
    elsewhere = {**command_options(plugins), "attack": "not_there:Turned", "plugin-options": ""}
    run_config = {**default_options(), **QUICK, **elsewhere, "malicious-fraction": 0.1}
    with pytest.raises(PopulationError, match="attack: cannot load 'not_there:Turned'"):
        discover(LocalGrid(app, run_config, 1, "memory", run_id=5501), 1, 5.0)


def test_a_replay_takes_options_of_ones_own_rules(plugins: Path, tmp_path: Path) -> None:
    options = {**command_options(plugins), **QUICK, "record-updates": "1-6", "output-dir": str(tmp_path / "runs")}
    directory, summary = simulate(options)
    recall = summary["detection"]["median-norm"]["recall"]
    assert recall == replay(directory, "my_rule:MedianNorm").by_rule["median-norm"].recall == 1.0
    looser = replay(directory, "my_rule:MedianNorm", {"plugin-options": "median-norm-factor=1e9"})
    assert looser.by_rule["median-norm"].recall == 0.0
    with pytest.raises(OptionError, match="'median-norm-facter': expected an option of my_rule:MedianNorm"):
        replay(directory, "my_rule:MedianNorm", {"plugin-options": "median-norm-facter=2.0"})


def test_an_option_is_of_a_kind_that_a_run_config_has() -> None:
    @dataclass(frozen=True)
    class Options:
        limit: int | None = None

    with pytest.raises(OptionError, match=r"Options.limit: an option cannot be int \| None. Expected bool, int"):
        read(Options, {}, "mine")
