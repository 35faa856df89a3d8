"""CSV and Parquet files with columns for users, items and times, read by Apache Arrow."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from data.columns import chosen_columns, require_columns
from data.file_error import DataFileError
from data.interactions import Interactions, from_columns
from settings.options import OptionError

COLUMNS = ("user", "item", "timestamp")
ONLY_A_HEADER = "it holds no interactions, only a header"


def read_table(path: Path, columns: str = "") -> Interactions:
    """Interactions of a ``.csv`` or ``.parquet`` file; other columns are ignored.

    ``columns``: the option, where they are not called as in ``COLUMNS``. Timestamps are numbers, or dates, times or
    durations, which are kept in the file's own unit, or the finest that all of a text file's fit in. Raises
    ``OptionError`` naming the file where it is missing or broken, has not all columns or an unusable cell in them, or
    where Arrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise OptionError(
            f"{path} needs pyarrow, which is not installed: pip install 'robust-fedrec[data]' or pyarrow."
        ) from None
    from data.arrow_columns import ids_of, times_of

    is_csv = path.suffix == ".csv"
    user, item, time = chosen_columns(columns, COLUMNS)
    try:
        read = _read_csv if is_csv else _read_parquet
        table = read(path, [user, item, time])
    except FileNotFoundError:
        raise OptionError(f"{path} does not exist: expected a data file there.") from None
    except (pa.ArrowException, OSError) as error:
        fault = f"it cannot be read as {'CSV' if is_csv else 'Parquet'}"
        raise DataFileError(str(path), fault, detail=str(error)) from None
    if not table.num_rows:
        raise DataFileError(str(path), ONLY_A_HEADER)
    # Rows are counted as in a spreadsheet: a CSV file's header is its first.
    first = 2 if is_csv else 1
    users, items = (ids_of(table[name], str(path), name, first) for name in (user, item))
    return from_columns(path.name, users, items, times_of(table[time], str(path), time, first))


def _read_csv(path: Path, columns: list[str]) -> Any:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    require_columns(columns, _csv_header(path), str(path), "row 1")
    broken: list[Any] = []

    def refuse(row: Any) -> str:
        broken.append(row)
        return "error"

    try:
        # One thread: only then does an error know its row. Everything stays text: 007 is not 7, and what a time is
        # must not depend on the part of the file that Arrow looks at first.
        return arrow_csv.read_csv(
            path,
            arrow_csv.ReadOptions(use_threads=False),
            arrow_csv.ParseOptions(invalid_row_handler=refuse),
            arrow_csv.ConvertOptions(
                include_columns=columns,
                column_types={name: pa.binary() for name in columns},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        if not broken:
            raise
        row = broken[0]
        fault = f"expected {row.expected_columns} columns, found {row.actual_columns}"
        raise DataFileError(str(path), fault, f"row {row.number}", str(error)) from None


def _csv_header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            header = next((row for row in csv.reader(file) if row), None)
        except csv.Error as error:
            raise DataFileError(str(path), "the header cannot be read", "row 1", str(error)) from None
        more = any(line.strip("\r\n") for line in file)
    if header is None:
        raise DataFileError(str(path), "the file is empty: expected a header, and a row for each interaction")
    if not more:
        raise DataFileError(str(path), ONLY_A_HEADER)
    return header


def _read_parquet(path: Path, columns: list[str]) -> Any:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        require_columns(columns, file.schema_arrow.names, str(path))
        return file.read(columns=columns)
