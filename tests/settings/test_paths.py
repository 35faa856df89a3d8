"""Whatever path a person gives, the answer is that path or a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from settings.options import OptionError
from settings.paths import LONGEST, absolute, is_file, is_folder, is_name, status_of

ROOT = Path(__file__).resolve().parents[2]


def test_a_path_is_absolute_and_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert absolute("data", "~/a") == absolute("data", "a") == absolute("data", tmp_path / "a") == tmp_path / "a"


@pytest.mark.parametrize("path", ["~no-such-user/x", "a\0b", "~no-such-user"])
def test_a_path_that_is_none_is_refused_by_its_option(path: str) -> None:
    with pytest.raises(OptionError, match=r"^state-dir = "):
        absolute("state-dir", path)


def test_without_a_home_folder_the_sentence_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    with pytest.raises(OptionError, match=r"data-dir = '~/x': no home folder is known.*Set HOME"):
        absolute("data-dir", "~/x")


def test_in_a_folder_that_is_gone_a_relative_path_is_refused(tmp_path: Path) -> None:
    code = (
        "import os; from settings.paths import absolute; from settings.options import OptionError\n"
        "os.rmdir(os.getcwd())\n"
        "try: absolute('--runs', 'x')\n"
        "except OptionError as error: print(error)"
    )
    folder = tmp_path / "gone"
    folder.mkdir()
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("--runs = 'x': the folder that this program was started in is gone")


def test_what_there_is_is_told_from_what_there_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert (is_file("data", file), is_folder("data", file)) == (True, False)
    assert (is_file("data", tmp_path), is_folder("data", tmp_path)) == (False, True)
    assert status_of("data", file / "below-a-file") is status_of("data", tmp_path / "nothing") is None


def test_a_name_that_the_system_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"dataset = .*cannot be looked at"):
        is_file("dataset", tmp_path / ("x" * 300))


def test_a_folder_that_may_not_be_entered_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(self))

    # The superuser, as whom tests may run, enters every folder.
    monkeypatch.setattr(Path, "stat", refuse)
    for look in (is_file, is_folder, status_of):
        with pytest.raises(OptionError, match=r"plugin-dir = .*Permission denied"):
            look("plugin-dir", tmp_path / "closed" / "plugins")


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("run 1", True),
        ("ä" * (LONGEST // 2), True),
        ("ä" * LONGEST, False),
        ("a/b", False),
        ("..", False),
        ("\0", False),
    ],
)
def test_a_name_is_of_one_folder(text: str, fits: bool) -> None:
    assert is_name(text) is fits
