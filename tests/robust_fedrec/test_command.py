"""The command line of the whole program, and the check that Python finds its packages."""

from __future__ import annotations

import ast
import importlib
import json
import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from attacks import ATTACKS, IMAGE_ATTACKS
from robust_fedrec import IMPORTS, PROJECT, simulate
from robust_fedrec.command import COMMANDS, main
from settings.options import OptionError

IN_THE_WAY = ("models", "client", "server", "data", "settings")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | {
    "PYTHONPATH": str(PROJECT)
}


@pytest.fixture(autouse=True)
def paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands put the project first in Python's path: what they change is set back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with modules of the project's names."""
    for name in IN_THE_WAY:
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def test_the_command_works_beside_modules_of_the_projects_names(folder: Path) -> None:
    """As the installed script does it: by calling ``main``, with the folder in Python's path as well."""
    script = folder / "script.py"
    script.write_text("import sys\nfrom robust_fedrec.command import main\nsys.exit(main())\n")
    table = ["experiments", "table1", "--dry-run", "--dataset", "synthetic"]
    for start, command in (([str(script)], table), (["-m", "robust_fedrec"], ["recommend", "--help"])):
        found = run(folder, *start, *command)
        assert found.returncode == 0, found.stderr
        assert found.stdout


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_a_module_in_the_way_is_named_at_import(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("MINE = True\n")
    importing = next(package for package, below in reversed(IMPORTS.items()) if name in below)
    (tmp_path / "script.py").write_text(f"import {importing}\n")
    for start in (["script.py"], ["-m", "experiments", "--help"]):
        found = run(tmp_path, *start)
        assert found.returncode == 1
        assert f"Found {tmp_path / name}.py instead of the project's {name!r}" in found.stderr.replace("\n", " ")


def test_a_module_that_is_not_needed_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text("MINE = True\n")
    (tmp_path / "script.py").write_text("import client, data\nassert client.MINE\nprint(data.load('synthetic').name)\n")
    found = run(tmp_path, "script.py")
    assert (found.returncode, found.stdout) == (0, "synthetic\n"), found.stderr


def imported(package: str) -> set[str]:
    """Every module of the project that the package's source imports; commands of their own may import more."""
    known = {*IMPORTS, "draws"} - {package}
    names = set[str]()
    for path in (PROJECT / package).rglob("*.py"):
        if path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names & known


@pytest.mark.parametrize("package", IMPORTS)
def test_the_check_looks_at_what_a_package_imports(package: str) -> None:
    assert set(IMPORTS[package]) == imported(package)


def test_every_command_has_a_main_and_the_installed_one_is_there() -> None:
    for module, _ in COMMANDS.values():
        assert callable(importlib.import_module(module).main)
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts["robust-fedrec"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_an_unknown_command_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table1"]) == 2
    said = capsys.readouterr().err
    assert "'table1' is no command" in said
    assert all(name in said for name in COMMANDS)


def test_a_wheel_holds_every_package_of_the_program() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert all(target == f"robust_fedrec/packages/{source}" for source, target in packed.items())
    bundled = {pattern.removesuffix("/**/*.py") for pattern in project["tool"]["flwr"]["app"]["fab-include"]}
    own = {"LICENSE", "robust_fedrec/__init__.py"}
    assert bundled - own == set(packed) - {"pyproject.toml", "deploy", "experiments"}


def test_a_misspelt_option_is_answered_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "atack=cluster"])
    assert ended.value.code == 2
    assert "There is no option 'atack': did you mean 'attack'?" in capsys.readouterr().err
    with pytest.raises(OptionError, match="did you mean 'num-server-rounds'"):
        simulate(num_server_round=3)


def test_a_run_from_python_can_be_looked_at(tmp_path: Path) -> None:
    done = simulate(
        num_server_rounds=2, eval_every=1, engine="local", num_nodes=1, tracker="none", output_dir=str(tmp_path)
    )
    assert done.directory.parent == tmp_path
    assert done.summary == json.loads((done.directory / "summary.json").read_text())
    assert [row["round"] for row in done.rounds] == [1, 2]
    assert [row["round"] for row in done.metrics][-1] == 2
    assert done.model["items"].shape[1] == 64
    assert done.report().parent == done.directory


def test_the_names_that_are_listed_are_those_that_a_run_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "attacks"]) == 0
    assert set(capsys.readouterr().out.split()) == {"none", *ATTACKS, *IMAGE_ATTACKS}


def test_the_doctor_finds_what_is_wrong_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    well = {
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "no_proxy": "127.0.0.1",
    }
    for name, value in {**well, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    assert main(["doctor"]) == 0, capsys.readouterr().out
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("FLWR_LOCAL_CONTROL_API_PORT", str(taken.getsockname()[1]))
        assert main(["doctor"]) == 0
    assert "something listens on port" in capsys.readouterr().out
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "1")
    monkeypatch.setenv("FLWR_LOCAL_CONTROL_API_PORT", "none")
    assert main(["doctor"]) == 1
    looked = [line for line in capsys.readouterr().out.splitlines() if line.startswith("LOOK")]
    assert [("doctor --fix" in line, "FLWR_LOCAL_CONTROL_API_PORT" in line) for line in looked] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize("command", [["robust_fedrec", "list", "options"], ["experiments", "table1", "--dry-run"]])
def test_a_reader_that_leaves_ends_a_command_without_a_stack_trace(command: list[str], tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
