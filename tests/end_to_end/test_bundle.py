"""The bundle that Flower ships holds all that a run imports; its fingerprint, all that a node's answers depend on."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from flwr.cli.app_cmd.publish import _validate_files
from flwr.cli.config_utils import load_and_validate
from flwr.cli.utils import filter_paths_for_publish, validate_project_name

from protocol.fingerprint import ROOMS, fingerprint_of
from server.simulation import PROJECT

RUN = """
import json, sys
from server.simulation import simulate
import client.app, server.app
options = {"dataset": "synthetic", "num-server-rounds": 2, "eval-every": 2, "engine": "local", "num-nodes": 2,
           "attack": "cluster", "malicious-fraction": 0.05, "defense": "union+norm-bound", "tracker": "none"}
simulate({**options, "output-dir": sys.argv[1]})
files = {name: module.__file__ for name, module in sys.modules.items() if getattr(module, "__file__", None)}
print(json.dumps(files))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the app bundle that ``flwr build`` makes, unpacked."""
    folder = tmp_path_factory.mktemp("bundle")
    program = [str(Path(sys.executable).parent / "flwr"), "build", "--app", str(PROJECT)]
    subprocess.run(program, cwd=folder, check=True, capture_output=True)
    (built,) = folder.glob("*.fab")
    with zipfile.ZipFile(built) as files:
        files.extractall(folder / "app")
    return folder / "app"


def test_a_run_from_the_bundle_uses_nothing_that_is_not_in_it(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, env=_environment(bundle))
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout.splitlines()[-1])
    # Installed packages may lie in an environment inside of the project's folder.
    prefix = Path(sys.prefix)
    ours = {file for file in imported.values() if Path(file).is_relative_to(PROJECT)}
    assert {file for file in ours if not Path(file).is_relative_to(prefix)} == set()
    in_bundle = [Path(file).relative_to(bundle) for file in imported.values() if Path(file).is_relative_to(bundle)]
    # What a node's answers depend on is fingerprinted. The server's room is not, for nodes do not run it; nor is the
    # project's own name, of which a run takes nothing but the check where its packages come from.
    assert {path.parts[0] for path in in_bundle} == {*ROOMS, "server", "robust_fedrec"}
    assert [path.name for path in in_bundle if path.parts[0] == "robust_fedrec"] == ["__init__.py"]


def test_flower_hub_takes_the_project_as_it_is(bundle: Path) -> None:
    """What ``flwr app publish`` checks before it sends anything; ``flwr build`` has checked the bundle's form."""
    config, warnings = load_and_validate(PROJECT / "pyproject.toml", check_module=False)
    assert (warnings, config["tool"]["flwr"]["app"]["fab-format-version"]) == ([], 1)
    assert (bundle / "LICENSE").read_text() == (PROJECT / "LICENSE").read_text()
    validate_project_name(config["project"]["name"], "name")
    assert len(config["project"]["description"]) <= 200
    tops = [top for top in PROJECT.iterdir() if not top.name.startswith(".") and top.name != "site"]
    found = [path for top in tops for path in (top, *top.rglob("*.*")) if path.is_file()]
    published = filter_paths_for_publish({str(path.relative_to(PROJECT)): path for path in found})
    assert "server/app.py" in published
    _validate_files([PROJECT / path for path in published])


@pytest.mark.parametrize("room", ROOMS)
def test_a_change_anywhere_in_a_room_gives_another_fingerprint(room: str, bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(bundle, root)
    before = fingerprint_of(root)
    assert before == fingerprint_of(PROJECT)
    files = sorted((root / room).rglob("*.py")) if (root / room).is_dir() else [root / room]
    for folder in {file.parent for file in files}:
        file = next(one for one in files if one.parent == folder)
        text = file.read_bytes()
        file.write_bytes(text + b"\n# changed")
        assert fingerprint_of(root) != before
        file.write_bytes(text)


def _environment(bundle: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(bundle), "OMP_NUM_THREADS": "1"}
