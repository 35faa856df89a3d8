"""CSV and Parquet files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import data
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
    with pytest.raises(OptionError, match=rf"a\.{ending} has 1 empty.*{column}"):
        read_table(write(tmp_path / f"a.{ending}", holed))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_times_that_are_text_are_refused(ending: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="timestamp"):
        read_table(write(tmp_path / f"a.{ending}", {**COLUMNS, "timestamp": ["noon"] * 4}))


def test_a_broken_row_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user,item,timestamp\n1,2,3\n1,2\n")
    with pytest.raises(OptionError, match=r"a\.csv.*#3"):
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
