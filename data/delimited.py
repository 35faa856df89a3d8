"""Columns out of large text files with one separator, chunk by chunk and without a Python loop over lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from settings.options import OptionError

Bytes = NDArray[np.bytes_]

CHUNK_BYTES = 8 << 20
MAX_FIELD_BYTES = 256


def read_columns(
    file: BinaryIO, source: str, separator: bytes, num_columns: int, wanted: Sequence[int], first_line: int = 1
) -> Iterator[tuple[int, list[Bytes]]]:
    """For each chunk of lines the number of its first line, and the wanted columns as bytes (n,).

    Lines end in LF or CRLF; the last may lack it. Memory is a few times ``CHUNK_BYTES``, whatever the
    file's size. Raises ``OptionError`` naming ``source`` and the line where a line has another number of
    columns, or a wanted field is empty or longer than ``MAX_FIELD_BYTES``.
    """
    rest = b""
    while True:
        block = file.read(CHUNK_BYTES)
        text = rest + block
        if block:
            whole = text.rfind(b"\n") + 1
            text, rest = text[:whole], text[whole:]
        elif text and not text.endswith(b"\n"):
            text += b"\n"
        if text:
            columns = _columns(text, source, separator, num_columns, wanted, first_line)
            yield first_line, columns
            first_line += len(columns[0])
        if not block:
            return


def numbers(column: Bytes, source: str, first_line: int, what: str) -> NDArray[Any]:
    """A column (n,) as int64 where all are whole numbers, else float64.

    Raises ``OptionError`` naming the line of the first that is no finite number.
    """
    for kind in (np.int64, np.float64):
        try:
            values: NDArray[Any] = column.astype(kind)
        except (ValueError, OverflowError):
            continue
        if np.isfinite(values).all():
            return values
    for offset, field in enumerate(column.tolist()):
        try:
            finite = np.isfinite(float(field))
        except ValueError:
            finite = np.False_
        if not finite:
            raise broken(source, first_line + offset, f"the {what} {field.decode(errors='replace')!r} is no number")
    raise AssertionError("numpy refused a column of which every field is a number")


def broken(source: str, line: int, what: str) -> OptionError:
    """The error for one line of a file."""
    return OptionError(f"{source}, line {line}: {what}.")


def _columns(
    text: bytes, source: str, separator: bytes, num_columns: int, wanted: Sequence[int], first_line: int
) -> list[Bytes]:
    letters = np.frombuffer(text, np.uint8)
    newlines = letters == ord("\n")
    stops = np.flatnonzero(newlines | (letters == ord(separator)))
    line_ends = np.flatnonzero(newlines)
    ends_line = newlines[stops]
    regular = len(stops) == num_columns * len(line_ends) and bool(ends_line[num_columns - 1 :: num_columns].all())
    if not regular:
        columns_found = np.diff(np.flatnonzero(ends_line), prepend=-1)
        line = int(np.flatnonzero(columns_found != num_columns)[0])
        raise broken(source, first_line + line, f"expected {num_columns} columns, found {columns_found[line]}")
    table = stops.reshape(-1, num_columns)
    line_starts = np.concatenate([[0], line_ends[:-1] + 1])
    return [_column(letters, table, line_starts, column, source, first_line) for column in wanted]


def _column(
    letters: NDArray[np.uint8],
    stops: NDArray[np.intp],
    line_starts: NDArray[np.intp],
    column: int,
    source: str,
    first_line: int,
) -> Bytes:
    starts = stops[:, column - 1] + 1 if column else line_starts
    ends = stops[:, column]
    if column == stops.shape[1] - 1:
        ends = ends - (letters[np.maximum(ends - 1, 0)] == ord("\r"))
    widths = ends - starts
    unusable = np.flatnonzero((widths <= 0) | (widths > MAX_FIELD_BYTES))
    if len(unusable):
        line = int(unusable[0])
        what = "is empty" if widths[line] <= 0 else f"is longer than {MAX_FIELD_BYTES} bytes"
        raise broken(source, first_line + line, f"column {column + 1} {what}")
    offsets = np.arange(int(widths.max()))
    field = letters[np.minimum(starts[:, None] + offsets, len(letters) - 1)]
    field[offsets >= widths[:, None]] = 0
    return np.ascontiguousarray(field).view(f"S{len(offsets)}").reshape(-1)
