"""Columns of Apache Arrow as ids and as times. Whoever imports this has Arrow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.file_error import DataFileError
from data.ids import require_readable
from data.numerals import are_numbers, numbers
from data.texts import Texts

DATES = tuple(pa.timestamp(unit, zone) for unit in ("ns", "us", "s") for zone in (None, "UTC"))
"""What a text can be a time of, the finest first: nanoseconds reach from 1677 to 2262 alone."""

MIDNIGHT = "1970-01-01 "
"""Makes a date and time of a time of day."""


def ids_of(column: Any, source: str, name: str, first_row: int) -> Texts | NDArray[Any]:
    """The ids in a column (n,): integers as they are, everything else as text.

    Raises ``DataFileError`` for a column of another kind, and naming the row of the first cell that is no id.
    """
    _require_filled(column, source, name, first_row)
    if pa.types.is_integer(column.type):
        values: NDArray[Any] = column.to_numpy()
        return values
    texts = _texts(column)
    if texts is None:
        fault = f"the column {name!r} holds {column.type} values; expected texts or whole numbers"
        raise DataFileError(source, fault)
    return require_readable(texts, source, name, first_row, "row")


def times_of(column: Any, source: str, name: str, first_row: int) -> NDArray[Any]:
    """The times in a column (n,): numbers as they are, dates, times and durations in units of their own.

    Raises ``DataFileError`` for a column of another kind, and naming the row of the first cell that is no time.
    """
    _require_filled(column, source, name, first_row)
    kind = column.type
    if pa.types.is_temporal(kind) and kind != pa.month_day_nano_interval():
        # One column has one unit: the order is that of the numbers behind it.
        whole = pa.int32() if kind.bit_width == 32 else pa.int64()
        return np.asarray(column.cast(whole).to_numpy(), np.int64)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values: NDArray[Any] = column.to_numpy()
        bad = ~np.isfinite(values)
        if bad.any():
            row = f"row {first_row + int(bad.argmax())}"
            raise DataFileError(source, f"the {name} is not a finite number", row)
        return values
    texts = _texts(column) if _is_text(kind) else None
    if texts is None:
        fault = f"the column {name!r} holds {kind} values; expected numbers, or dates and times"
        raise DataFileError(source, fault)
    if are_numbers(texts):
        return numbers(texts, source, name, first_row, "row")
    dates = _dates(column)
    if dates is None:
        raise _no_times(column, source, name, first_row)
    return dates


def _require_filled(column: Any, source: str, name: str, first_row: int) -> None:
    empty = column.is_null(nan_is_null=pa.types.is_floating(column.type)).to_numpy()
    if empty.any():
        times = int(empty.sum())
        fault = f"the cell in the column {name!r} is empty" + (f", as are {times - 1} more in it" if times > 1 else "")
        raise DataFileError(source, fault, f"row {first_row + int(empty.argmax())}")


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests) or "view" in str(kind)


def _texts(column: Any) -> Texts | None:
    """The cells as text, ``None`` where they have none; they are not checked."""
    try:
        if not _is_text(column.type):
            column = column.cast(pa.large_string())
        parts = column.cast(pa.large_binary()).chunks
    except pa.ArrowException:
        return None
    return Texts.concatenate([_texts_of_array(part) for part in parts])


def _texts_of_array(array: Any) -> Texts:
    if not len(array):
        return Texts.of(())
    _, offsets, content = array.buffers()
    splits = np.frombuffer(offsets, np.int64, len(array) + 1, 8 * array.offset)
    letters = np.frombuffer(content, np.uint8) if content is not None else np.empty(0, np.uint8)
    return Texts(letters[splits[0] : splits[-1]], splits - splits[0])


def _dates(column: Any) -> NDArray[np.int64] | None:
    """Text as dates and times, or as times of day: (n,), ``None`` where they are not all of one kind."""
    try:
        texts = column.cast(pa.string())
    except pa.ArrowException:
        return None
    for written in (texts, pc.binary_join_element_wise(MIDNIGHT, texts, "")):
        for kind in DATES:
            try:
                dates = written.cast(kind)
            except pa.ArrowException:
                continue
            return np.asarray(dates.cast(pa.int64()).to_numpy(), np.int64)
    return None


def _no_times(column: Any, source: str, name: str, first_row: int) -> DataFileError:
    """The error for texts that are not all times: it names the first row that is none by itself."""
    for offset in range(len(column)):
        one = column.slice(offset, 1)
        texts = _texts(one)
        if _dates(one) is None and not (texts is not None and are_numbers(texts)):
            found = repr(column[offset].as_py())
            return DataFileError(source, f"the {name} is no number, date or time", f"row {first_row + offset}", found)
    fault = (
        f"the column {name!r} holds times of several kinds (numbers, dates, times of day, with and without a time "
        "zone, or far dates beside nanoseconds); expected one kind"
    )
    return DataFileError(source, fault)
