"""The cache of parsed data sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data
from data import cache
from data.cache import cached
from data.interactions import Interactions, from_columns

ROOT = Path(data.__file__).parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr(cache, "HOME", home)
    return home


class Parser:
    """Counts how often it is asked."""

    def __init__(self, items: int = 3) -> None:
        self.items, self.calls = items, 0

    def __call__(self) -> Interactions:
        self.calls += 1
        return from_columns(
            "some", np.zeros(self.items, np.int64), np.arange(self.items), np.arange(self.items), {"0": "Zero"}
        )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.inter"
    path.write_text("one")
    return path


def equal(one: Interactions, other: Interactions) -> bool:
    return one.name == other.name and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in cache.ARRAYS
    )


def test_the_second_time_nothing_is_parsed_and_arrays_are_mapped(source: Path, tmp_path: Path) -> None:
    parse = Parser()
    first, second = (cached("some", [source], tmp_path, parse) for _ in range(2))
    assert parse.calls == 1
    assert equal(first, parse())
    assert equal(second, first)
    assert isinstance(second.items, np.memmap)
    assert not second.items.flags.writeable


def test_without_titles_there_are_none(source: Path, tmp_path: Path) -> None:
    def parse() -> Interactions:
        return from_columns("some", np.array([1]), np.array([1]), np.array([1]))

    for _ in range(2):
        assert cached("some", [source], tmp_path, parse).titles is None


def test_a_source_that_changed_is_parsed_again(source: Path, tmp_path: Path) -> None:
    cached("some", [source], tmp_path, Parser(3))
    source.write_text("three")
    assert cached("some", [source], tmp_path, Parser(4)).num_items == 4
    status = source.stat()
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert cached("some", [source], tmp_path, Parser(5)).num_items == 5


def test_two_sources_of_one_name_do_not_mix(tmp_path: Path) -> None:
    for folder, items in (("a", 3), ("b", 4), ("a", 9), ("b", 9)):
        path = tmp_path / folder / "x.inter"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text("same")
        assert cached("x.inter", [path], tmp_path, Parser(items)).num_items == {"a": 3, "b": 4}[folder]


@pytest.mark.parametrize("name", ["items.npy", "splits.npy", "times.npy"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "pickle"])
def test_a_damaged_entry_is_made_again(name: str, damage: str, source: Path, tmp_path: Path) -> None:
    cached("some", [source], tmp_path, Parser())
    (file,) = (tmp_path / "cache").glob(f"*/{name}")
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        np.save(file, np.array([{}, None]), allow_pickle=True)
    parse = Parser()
    for _ in range(2):
        assert equal(cached("some", [source], tmp_path, parse), Parser()())
    assert parse.calls == 1


def test_a_closed_data_dir_is_left_alone_and_the_home_used(source: Path, tmp_path: Path, home: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    parse = Parser()
    for _ in range(2):
        cached("some", [source], closed, parse)
    assert parse.calls == 1
    assert list(closed.iterdir()) == []
    assert len(list((home / "cache").iterdir())) == 1


def test_where_nothing_can_be_written_it_warns_and_works(source: Path, tmp_path: Path, home: Path) -> None:
    home.chmod(0o555)
    with pytest.warns(UserWarning, match="not cached"):
        assert cached("some", [source], home, Parser(7)).num_items == 7


def test_processes_at_once_all_get_the_whole(source: Path, tmp_path: Path) -> None:
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *(f"{k % 97}\t{k % 89}\t{k}" for k in range(20_000))]
    source.write_text("\n".join(lines))
    code = f"import data; x = data.load({str(source)!r}, {str(tmp_path)!r}); print(int(x.items.sum()), x.num_users)"
    jobs = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) for _ in range(3)]
    answers = {job.communicate()[0] for job in jobs}
    assert answers == {f"{sum(k % 89 for k in range(20_000))} 97\n".encode()}
    assert [path.name[0] for path in (tmp_path / "cache").iterdir()] == ["s"]


def test_an_error_while_parsing_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def parse() -> Interactions:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cached("some", [source], tmp_path, parse)
    assert not (tmp_path / "cache").exists()
