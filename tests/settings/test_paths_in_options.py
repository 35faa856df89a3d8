"""Options that name paths, classes or seeds: what no run can use is a sentence, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

import data
from client.config import client_config
from server.config import server_config
from server.results.run_directory import make_run_directory
from server.simulation import default_options
from settings.options import OptionError, Scalar


@pytest.mark.parametrize(
    "options",
    [
        {"output-dir": "~no-such-user/runs"},
        {"output-dir": "a\0b"},
        {"output-dir": "/proc/no/such"},
        {"plugin-dir": "~no-such-user/x"},
        {"plugin-dir": "/x\0y"},
        {"plugin-dir": "/" + "x" * 300},
        {"resume": "~no-such-user/run"},
        {"resume": "x\0y"},
        {"resume": "/" + "x" * 300},
        {"run-name": "x\0y"},
        {"run-name": "x" * 250},
        {"run-name": ".."},
        {"seed": 1 << 64},
        {"attack": "../../x:Y"},
        {"attack": "..x:Y"},
        {"attack": "x\0y:Y"},
        {"attack": ":"},
        {"defense": "../../x:Y"},
        {"columns": "userId"},
    ],
    ids=str,
)
def test_what_no_run_can_use_is_a_sentence(options: dict[str, Scalar], tmp_path: Path) -> None:
    given = {**default_options(), "output-dir": str(tmp_path), **options}
    with pytest.raises(OptionError, match=rf"^{next(iter(options))}"):
        make_run_directory(server_config(given))


@pytest.mark.parametrize("state", ["~no-such-user/state", "a\0b"])
def test_a_state_dir_that_is_no_path_is_a_sentence(state: str) -> None:
    with pytest.raises(OptionError, match=r"^state-dir = "):
        client_config({}, {"state-dir": state}).state_dir("run")


@pytest.mark.parametrize("dataset", ["~no-such-user/a.csv", "a\0b.csv", "/" + "x" * 300 + ".inter"])
def test_a_data_file_that_is_no_path_is_a_sentence(dataset: str, tmp_path: Path) -> None:
    for look in (lambda: data.load(dataset, tmp_path), lambda: data.version_of(dataset)):
        with pytest.raises(OptionError, match=r"^dataset = "):
            look()


@pytest.mark.parametrize("letter", ["x", "ä", "語"])
def test_a_data_file_of_a_long_name_is_read_cached_and_trained_on(letter: str, tmp_path: Path) -> None:
    name = letter * ((250 - len(".inter")) // len(letter.encode())) + ".inter"
    path = tmp_path / name
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n")
    for _ in range(2):
        assert data.load(str(path), tmp_path).name == name
    assert len(list((tmp_path / "cache").iterdir())) == 1
    given = {**default_options(), "dataset": str(path), "output-dir": str(tmp_path / "runs")}
    assert all(make_run_directory(server_config(given)).is_dir() for _ in range(2))
