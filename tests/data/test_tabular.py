"""CSV and Parquet files."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import data
from data.columns import parse_columns
from data.tabular import read_table
from settings.options import OptionError

pa: Any = pytest.importorskip("pyarrow")

COLUMNS: dict[str, list[Any]] = {
    "item": ["b", "a", "c", "a"],
    "rating": [1, 2, 3, 4],
    "timestamp": [30, 20, 10, 5],
    "user": ["07", "07", "7", "7"],
}


def write(path: Path, columns: dict[str, Any]) -> Path:
    import pyarrow.csv
    import pyarrow.parquet

    table = pa.table(columns)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pyarrow.parquet.write_table(table, path)
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_columns_are_found_by_name_and_ids_keep_their_text(ending: str, tmp_path: Path) -> None:
    made = data.load(str(write(tmp_path / f"a.{ending}", COLUMNS)), tmp_path)
    assert made.user_ids.tolist() == ["07", "7"]
    assert made.item_ids[made.items].tolist() == ["a", "b", "a", "c"]
    assert made.times.tolist() == [20, 30, 5, 10]


def test_whole_number_ids_of_parquet_are_ordered_by_value(tmp_path: Path) -> None:
    made = read_table(write(tmp_path / "a.parquet", {**COLUMNS, "user": [10, 10, 9, 9]}))
    assert made.user_ids.tolist() == ["9", "10"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_dates_are_times(ending: str, tmp_path: Path) -> None:
    dates = [f"2010-10-{day:02}T23:55:27Z" for day in (30, 20, 10, 5)]
    column = pa.array(dates).cast(pa.timestamp("s", tz="UTC")) if ending == "parquet" else dates
    made = read_table(write(tmp_path / f"a.{ending}", {**COLUMNS, "timestamp": column}))
    assert made.item_ids[made.items].tolist() == ["a", "b", "a", "c"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("column", ["user", "item", "timestamp"])
def test_a_missing_column_or_an_empty_cell_is_named(ending: str, column: str, tmp_path: Path) -> None:
    without = {name: values for name, values in COLUMNS.items() if name != column}
    with pytest.raises(OptionError, match=rf"a\.{ending}.*{column}"):
        read_table(write(tmp_path / f"a.{ending}", without))
    holed = {**COLUMNS, column: [None, *COLUMNS[column][1:]]}
    row = {"csv": 2, "parquet": 1}[ending]
    with pytest.raises(OptionError, match=rf"a\.{ending}, row {row}: .*{column}.* empty"):
        read_table(write(tmp_path / f"a.{ending}", holed))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_times_that_are_text_are_refused(ending: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="timestamp"):
        read_table(write(tmp_path / f"a.{ending}", {**COLUMNS, "timestamp": ["noon"] * 4}))


def test_a_broken_row_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user,item,timestamp\n1,2,3\n1,2\n")
    with pytest.raises(OptionError, match=r"a\.csv, row 3: expected 3 columns, found 2"):
        read_table(path)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("user,item,timestamp\n")
    with pytest.raises(OptionError, match=r"a\.parquet"):
        read_table(path)


def test_without_arrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv", COLUMNS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match="pip install"):
        read_table(path)


NANOSECONDS = [3_001, 2_000, 1_000]
THREE: dict[str, Any] = {"user": ["a"] * 3, "item": ["x", "y", "z"]}


def items_in_order(path: Path) -> list[str]:
    made = read_table(path)
    return made.item_ids[made.items].tolist()


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo")),
        *(pa.duration(unit) for unit in ("s", "ns")),
        *(pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.date32(), pa.uint16(), pa.float32()),
    ],
    ids=str,
)
def test_every_kind_of_time_in_parquet_is_in_its_order(kind: Any, tmp_path: Path) -> None:
    times = pa.array(NANOSECONDS, pa.int32() if kind.bit_width == 32 else pa.int64())
    path = write(tmp_path / "a.parquet", {**THREE, "timestamp": times.cast(kind)})
    assert items_in_order(path) == ["z", "y", "x"]


def test_old_nanoseconds_and_far_dates_are_in_order(tmp_path: Path) -> None:
    from pyarrow import parquet

    table = pa.table({**THREE, "timestamp": pa.array(NANOSECONDS, pa.timestamp("ns"))})
    parquet.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    assert items_in_order(tmp_path / "a.parquet") == ["z", "y", "x"]
    far = pa.array([1 << 53, 2, 1], pa.timestamp("s"))
    assert items_in_order(write(tmp_path / "b.parquet", {**THREE, "timestamp": far})) == ["z", "y", "x"]


@pytest.mark.parametrize(
    "times",
    [
        ["2010-10-19 23:55:28.000000001", "2010-10-19 23:55:28", "2010-10-19"],
        ["9999-12-31T00:00:00.5Z", "2010-10-19T23:55:28Z", "0001-01-01T00:00:00Z"],
        ["2010-10-19T23:00:00+01:00", "2010-10-19T23:30:00+02:00", "2010-10-19T20:00:00Z"],
        ["12:30:00", "11:30:00.5", "11:30"],
        ["1700000000000000001", "1700000000000000000", "-5"],
        ["1.5", "1", "-2e3"],
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_every_kind_of_time_as_text_is_in_its_order(ending: str, times: list[str], tmp_path: Path) -> None:
    assert items_in_order(write(tmp_path / f"a.{ending}", {**THREE, "timestamp": times})) == ["z", "y", "x"]


@pytest.mark.parametrize(
    ("times", "row"),
    [(["1", "noon", "2"], 3), (["2010-10-19", "2010-10-20", "2010-13-45"], 4), (["12:30:00", "25:30:00", "11:30"], 3)],
)
def test_the_row_of_a_text_that_is_no_time_is_named(times: list[str], row: int, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=rf"a\.csv, row {row}: the timestamp is no"):
        read_table(write(tmp_path / "a.csv", {**THREE, "timestamp": times}))


@pytest.mark.parametrize("times", [["2010-10-19", "12:30:00", "11:30"], ["2010-10-19", "5", "6"]])
def test_times_of_several_kinds_are_refused(times: list[str], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="times of several kinds"):
        read_table(write(tmp_path / "a.csv", {**THREE, "timestamp": times}))


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("timestamp", [1.0, float("nan"), 2.0], "row 2: .*timestamp.* empty"),
        ("timestamp", [1.0, float("inf"), 2.0], "row 2: the timestamp is not a finite number"),
        ("timestamp", [[1], [2], [3]], "timestamp.* holds list.*expected numbers"),
        ("user", [["a"]] * 3, "user.* holds list.*expected texts"),
        ("user", [b"a", b"\xff", b"b"], "row 2: .*'user' is not UTF-8"),
        ("user", ["a", "", "b"], "row 2: .*'user' is empty"),
        ("item", ["a", "a\0", "b"], "row 2: .*'item' has a NUL"),
        ("item", [1.0, None, 2.0], "row 2: .*'item' is empty"),
    ],
)
def test_what_cannot_be_used_in_parquet_is_one_sentence(
    column: str, values: list[Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=rf"a\.parquet.*{expected}"):
        read_table(write(tmp_path / "a.parquet", {**THREE, "timestamp": [1, 2, 3], column: values}))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"user,item,timestamp\n", "no interactions, only a header"),
        (b"user,item,timestamp", "no interactions, only a header"),
        (b"userId,movieId,timestamp\n1,2,3\n", r"no column 'user' and no 'item'.*'userId', 'movieId', 'timestamp'"),
        (b"user,item,timestamp\n1,2,3\n\xff,2,3\n", "row 3: .*'user' is not UTF-8"),
        (b"user,item,timestamp\n1,2,3\n1,a\0,3\n", "row 3: .*'item' has a NUL"),
        (b'user,item,timestamp\n1,2,3\n"a,2,3\n1,2,3\n', "row 3|cannot be read"),
    ],
)
def test_what_cannot_be_used_in_csv_is_one_sentence(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=rf"a\.csv.*({expected})"):
        read_table(path)


def test_blank_lines_at_the_end_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user,item,timestamp\n1,2,3\n\n\n")
    assert read_table(path).num_interactions == 1


def test_categories_are_texts(tmp_path: Path) -> None:
    users = pa.array(["b", "a", "b"]).dictionary_encode()
    made = read_table(write(tmp_path / "a.parquet", {**THREE, "user": users, "timestamp": [1, 2, 3]}))
    assert made.user_ids.tolist() == ["a", "b"]


@pytest.mark.parametrize("ending", ["csv", "parquet", "inter"])
def test_one_long_id_takes_no_more_than_its_letters(ending: str, tmp_path: Path) -> None:
    """As NumPy's own texts, each as wide as the longest, these ids would take 800 MB."""
    ids = [f"u{k}" for k in range(2_000)]
    ids[7] = "x" * 100_000
    columns = {"user": ids, "item": ids, "timestamp": list(range(2_000))}
    path = tmp_path / f"a.{ending}"
    if ending == "inter":
        rows = [f"{name}\t{name}\t{time}" for time, name in enumerate(ids)]
        path.write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]))
    else:
        write(path, columns)
    tracemalloc.start()
    made = data.load(str(path), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.user_ids.tolist() == sorted(ids)
    assert peak < 32 << 20


MOVIELENS = "user=userId item=movieId time=timestamp"


@pytest.mark.parametrize("ending", ["csv", "parquet", "inter"])
def test_columns_are_called_as_the_option_says(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"ratings.{ending}"
    if ending == "inter":
        path.write_text("userId:token\tmovieId:token\ttimestamp:float\n1\t7\t20\n1\t8\t10\n")
    else:
        write(path, {"userId": [1, 1], "movieId": [7, 8], "timestamp": [20, 10]})
    for _ in range(2):
        made = data.load(str(path), tmp_path, MOVIELENS)
        assert made.item_ids[made.items].tolist() == ["8", "7"]
        assert made.name == path.name
    # The cache must not answer for other columns.
    other = data.load(str(path), tmp_path, "user=movieId item=userId")
    assert other.user_ids.tolist() == ["7", "8"]
    with pytest.raises(OptionError, match="no column"):
        data.load(str(path), tmp_path)


@pytest.mark.parametrize(
    "text", ["userId", "user=", "who=userId", "user=a user=b", "user=a item=a", "user='a", "user=a, item=b, x"]
)
def test_another_form_of_the_option_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(OptionError, match=r"columns = .*user=userId item=movieId"):
        parse_columns(text)


def test_a_column_name_with_a_blank_stands_in_quotes() -> None:
    assert parse_columns("user='user id' time=t") == {"user": "user id", "time": "t"}


def test_a_named_data_set_takes_no_columns(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'synthetic', whose columns are known"):
        data.load("synthetic", tmp_path, MOVIELENS)
