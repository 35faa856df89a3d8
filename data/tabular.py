"""CSV and Parquet files with the columns ``user``, ``item`` and ``timestamp``, read by Apache Arrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.interactions import Interactions, from_columns
from settings.options import OptionError

COLUMNS = ("user", "item", "timestamp")


def read_table(path: Path) -> Interactions:
    """Interactions of a ``.csv`` or ``.parquet`` file; other columns are ignored.

    Timestamps are numbers, or dates and times. Raises ``OptionError`` naming the file where it is missing
    or broken, has not all ``COLUMNS`` or an empty cell in them, or where Arrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise OptionError(
            f"{path} needs pyarrow, which is not installed: pip install 'robust-fedrec[data]' or pyarrow."
        ) from None
    try:
        table = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    except FileNotFoundError:
        raise OptionError(f"{path} does not exist: expected a data file there.") from None
    except KeyError as error:
        missing = str(error.args[0])
        raise OptionError(f"{path} has no column {missing!r}: expected the columns {', '.join(COLUMNS)}.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise OptionError(f"{path} cannot be read: {error}") from None
    for column in COLUMNS:
        if table[column].null_count:
            raise OptionError(f"{path} has {table[column].null_count} empty cells in the column {column!r}.")
    users, items = (_ids(table[column]) for column in COLUMNS[:2])
    return from_columns(path.name, users, items, _times(table["timestamp"], path))


def _read_csv(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    # One thread: only then does an error name the row. Ids stay text: 007 is not 7.
    return csv.read_csv(
        path,
        csv.ReadOptions(use_threads=False),
        convert_options=csv.ConvertOptions(
            include_columns=list(COLUMNS),
            column_types={"user": pa.string(), "item": pa.string()},
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _read_parquet(path: Path) -> Any:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for column in COLUMNS:
            if column not in file.schema_arrow.names:
                raise KeyError(column)
        return file.read(columns=list(COLUMNS))


def _ids(column: Any) -> NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_integer(column.type):
        values: NDArray[Any] = column.to_numpy()
        return values
    return np.array(column.cast(pa.string()).to_pylist(), np.str_)


def _times(column: Any, path: Path) -> NDArray[Any]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_temporal(kind):
        column = column.cast(pa.timestamp("us", tz=getattr(kind, "tz", None))).cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise OptionError(f"{path}: the column 'timestamp' holds {kind} values, expected numbers or dates and times.")
    values: NDArray[Any] = column.to_numpy()
    return values
