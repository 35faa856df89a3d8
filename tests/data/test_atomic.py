"""RecBole's files, read fast, must say the same as a reader that goes line by line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data
from data import delimited
from data.atomic import read_inter
from settings.options import OptionError

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
IDS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
LINES = st.lists(st.tuples(IDS, IDS, st.integers(-5, 2**53)), min_size=1, max_size=30)


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes((end.join(lines) + end).encode())
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines=LINES, end=st.sampled_from(["\n", "\r\n"]), last=st.booleans(), block=st.integers(1, 200))
def test_every_line_is_read_whatever_the_chunks(
    lines: list[tuple[str, str, int]],
    end: str,
    last: bool,
    block: int,
    tmp_path: Path,
) -> None:
    text = end.join([HEADER, *(f"{user}\t{item}\t\t{time}" for user, item, time in lines)]) + end * last
    path = tmp_path / "some.inter"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "CHUNK_BYTES", block)
        made = read_inter(path)
    found = {
        user: made.item_ids[made.items[made.splits[k] : made.splits[k + 1]]].tolist()
        for k, user in enumerate(made.user_ids.tolist())
    }
    expected: dict[str, list[str]] = {}
    for user, item, _ in sorted(lines, key=lambda line: line[2]):
        expected.setdefault(user, []).append(item)
    assert found == expected
    assert sorted(made.times.tolist()) == sorted(time for *_, time in lines)


def test_columns_stand_in_any_order_and_others_are_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.inter", "timestamp:float\tx:token\titem_id:token\tuser_id:token", "1.5\t?\ti\tu")
    made = read_inter(path)
    assert (made.user_ids.tolist(), made.item_ids.tolist(), made.times.tolist()) == (["u"], ["i"], [1.5])


def test_a_packed_file_is_the_same(tmp_path: Path) -> None:
    lines = [HEADER, "1\t2\t3\t4", "1\t3\t3\t4"]
    plain = read_inter(write(tmp_path / "a.inter", *lines))
    packed_path = tmp_path / "a.inter.gz"
    packed_path.write_bytes(gzip.compress("\n".join(lines).encode()))
    packed = read_inter(packed_path)
    assert plain.items.tolist() == packed.items.tolist()
    assert plain.item_ids.tolist() == packed.item_ids.tolist()


GOOD = "1\t2\t3\t4"


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("1\t2\t3", "3"),
        ("1\t2\t3\t4\t5", "5"),
        ("", "1"),
        ("1\t2\t3\tnoon", "noon"),
        ("1\t2\t3\tnan", "nan"),
        ("1\t2\t3\t", "empty"),
        ("\t2\t3\t4", "empty"),
        ("1\t2\0\t3\t4", "NUL"),
        ("\t\t\t", "empty"),
    ],
)
@pytest.mark.parametrize("chunk", [16, 1 << 20])
def test_a_broken_line_is_named(
    broken: str, why: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "CHUNK_BYTES", chunk)
    path = write(tmp_path / "a.inter", HEADER, GOOD, GOOD, GOOD, broken, GOOD)
    with pytest.raises(OptionError, match=rf"a\.inter, line 5: .*{why}"):
        data.load(str(path), tmp_path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.inter", "user_id:token\titem_id:token", "1\t2")
    with pytest.raises(OptionError, match=r"line 1: .*timestamp"):
        read_inter(path)


def test_an_empty_file_and_a_broken_gzip_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no interactions"):
        read_inter(write(tmp_path / "a.inter", HEADER))
    whole = gzip.compress(("\n".join([HEADER] + [GOOD] * 1000)).encode())
    for number, bad in enumerate((whole[:-20], b"not gzip", whole[:40] + b"\xff" * 9 + whole[49:])):
        path = tmp_path / f"{number}.inter.gz"
        path.write_bytes(bad)
        with pytest.raises(OptionError, match=path.name):
            read_inter(path)


@pytest.mark.parametrize("line", [b"\xff\t2\t3\t4\n", b"\xc3\t2\t3\t4\n\xa9\t2\t3\t4\n"])
def test_an_id_that_is_not_utf8_is_named_by_its_line(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.inter"
    path.write_bytes(f"{HEADER}\n{GOOD}\n".encode() + line)
    with pytest.raises(OptionError, match=r"line 3: .*UTF-8"):
        read_inter(path)


@pytest.mark.parametrize("chunk", [1, 16, 1 << 20])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("blank", [0, 1, 3])
def test_blank_lines_at_the_end_do_not_count_and_others_are_named(
    blank: int, end: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "CHUNK_BYTES", chunk)
    assert read_inter(write(tmp_path / "a.inter", HEADER, GOOD, GOOD, *[""] * blank, end=end)).num_interactions == 2
    if blank:
        with pytest.raises(OptionError, match="line 3: expected 4 columns, found 1"):
            read_inter(write(tmp_path / "a.inter", HEADER, GOOD, *[""] * blank, GOOD, end=end))


def test_a_header_that_lacks_a_column_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no column 'item_id' and no 'timestamp'.*'user_id', 'movie'.*columns"):
        read_inter(write(tmp_path / "a.inter", "user_id:token\tmovie:token", "1\t2"))
    with pytest.raises(OptionError, match="2 columns 'user_id'"):
        read_inter(write(tmp_path / "a.inter", f"{HEADER}\tuser_id:token", f"{GOOD}\t5"))


def test_times_that_would_become_the_same_are_refused(tmp_path: Path) -> None:
    """Beside a fraction all become float64, which has 53 bits."""
    late = 1_700_000_000_000_000_001
    rows = [f"1\t2\t3\t{late}", "1\t2\t3\t0.5", f"1\t3\t3\t{late - 1}"]
    with pytest.raises(OptionError, match=r"line 4: the timestamp has more digits.* line 2"):
        read_inter(write(tmp_path / "a.inter", HEADER, *rows))
    apart = [f"1\t2\t3\t{late}", "1\t2\t3\t0.5", f"1\t3\t3\t{late - 1000}"]
    made = read_inter(write(tmp_path / "a.inter", HEADER, *apart))
    assert made.item_ids[made.items].tolist() == ["2", "3", "2"]


@pytest.mark.parametrize("name", ["netflix", "", "/no/such/file.txt", "a.inter.zip"])
def test_unknown_names_are_answered_with_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"'synthetic'.*'ml-1m'.*\.inter"):
        data.load(name, tmp_path)


@pytest.mark.parametrize("ending", [".inter", ".inter.gz", ".csv", ".parquet"])
def test_a_missing_file_is_named(ending: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"nothere{ending}"):
        data.load(str(tmp_path / f"nothere{ending}"), tmp_path)


def test_whole_times_lose_nothing(tmp_path: Path) -> None:
    late = 2**60 + 1
    made = read_inter(write(tmp_path / "a.inter", HEADER, f"1\t2\t3\t{late}", f"1\t3\t3\t{late - 1}"))
    assert made.times.tolist() == [late - 1, late]
    assert made.times.dtype == np.int64
