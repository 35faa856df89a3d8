"""Where compiled code is kept between processes, and that a run's first round does not wait for it."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.kernels import compiled, hashing
from models.kernels.prepare import prepare

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test asks for the folder as a new process would, with a home and a temporary folder of its own."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    compiled.code_folder.cache_clear()
    yield
    compiled.code_folder.cache_clear()


def test_a_named_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "named"))
    folder = compiled.code_folder()
    assert folder is not None
    assert folder.parent == tmp_path / "named"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_home_that_cannot_be_written_gives_way_to_the_temporary_folder(tmp_path: Path) -> None:
    # A file in its place: no folder can be made there, whoever asks.
    (tmp_path / "home").write_text("")
    folder = compiled.code_folder()
    assert folder is not None
    assert folder.parent == tmp_path / f"robust-fedrec-{os.getuid()}"


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    first = compiled.code_folder()
    assert first is not None
    first.chmod(0o777)
    compiled.code_folder.cache_clear()
    assert compiled.code_folder() != first


def test_without_any_folder_there_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home").write_text("")
    monkeypatch.setattr(compiled, "_is_ours", lambda folder: False)
    with caplog.at_level(logging.WARNING, "flwr"):
        assert compiled.code_folder() is None
        assert compiled.code_folder() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_code_is_found_again_by_a_copy_of_the_sources(tmp_path: Path) -> None:
    """As each run from a bundle is one."""
    program = (
        "from models.kernels import hashing, compiled; hashing.mixed(hashing.GOLDEN); print(compiled.compilations())"
    )
    made = []
    for name in ("one", "two"):
        for room in ("data", "models", "robust_fedrec", "settings"):
            shutil.copytree(PROJECT / room, tmp_path / name / room, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(PROJECT / "draws.py", tmp_path / name)
        environment = {**os.environ, "PYTHONPATH": "", "NUMBA_CACHE_DIR": str(tmp_path / "code")}
        command = [sys.executable, "-c", program]
        made.append(
            subprocess.run(command, cwd=tmp_path / name, env=environment, capture_output=True, check=True).stdout
        )
    assert [int(count) for count in made] == [1, 0]


def test_after_preparing_nothing_is_compiled_any_more() -> None:
    prepare()
    before = compiled.compilations()
    prepare.__wrapped__()
    assert compiled.compilations() == before


def test_a_user_who_turned_compilation_off_is_told_what_it_costs() -> None:
    program = (
        "from models.kernels import hashing, prepare; print(prepare.prepare(), int(hashing.mixed(hashing.GOLDEN)))"
    )
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": "", "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["0", str(int(hashing.mixed(hashing.GOLDEN)))]
    assert "NUMBA_DISABLE_JIT" in found.stderr
