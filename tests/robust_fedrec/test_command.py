"""The command line of the whole program, and the check that Python finds its packages."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from robust_fedrec import IMPORTS, PROJECT
from robust_fedrec.command import COMMANDS, main

IN_THE_WAY = ("models", "client", "server", "data", "settings")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | {
    "PYTHONPATH": str(PROJECT)
}


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
    for start in ([str(script)], ["-m", "robust_fedrec"]):
        for command in (["experiments", "table1", "--dry-run", "--dataset", "synthetic"], ["recommend", "--help"]):
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
