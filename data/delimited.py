"""Columns out of large text files with one separator, chunk by chunk and without a Python loop over lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np

from data.file_error import DataFileError
from data.ragged import ragged_positions, splits_of
from data.texts import Texts

CHUNK_BYTES = 8 << 20


def read_columns(
    file: BinaryIO, source: str, separator: bytes, num_columns: int, wanted: Mapping[str, int], first_line: int = 1
) -> Iterator[tuple[int, list[Texts]]]:
    """For each chunk of lines the number of its first line, and the wanted columns, each (n,).

    ``wanted``: names of columns and their places. Lines end in LF or CRLF; the last may lack it, and blank lines at
    the end of the file do not count. Memory is a few times ``CHUNK_BYTES``, whatever the file's size. Raises
    ``DataFileError`` naming the line where a line has another number of columns, or a wanted field is empty.
    """
    rest = b""
    while True:
        block = file.read(CHUNK_BYTES)
        text, rest = _whole_lines(rest + block, last=not block)
        if text:
            columns = _columns(text, source, separator, num_columns, wanted, first_line)
            yield first_line, columns
            first_line += len(columns[0])
        if not block:
            return


def _whole_lines(text: bytes, last: bool) -> tuple[bytes, bytes]:
    """The lines that are whole, and what must wait for more; blank lines wait for one that is not."""
    whole = text if last else text[: text.rfind(b"\n") + 1]
    kept = whole.rstrip(b"\r\n")
    if last or not kept:
        return (kept + b"\n" if kept else b""), (b"" if last else text)
    stop = text.index(b"\n", len(kept)) + 1
    return text[:stop], text[stop:]


def _columns(
    text: bytes, source: str, separator: bytes, num_columns: int, wanted: Mapping[str, int], first_line: int
) -> list[Texts]:
    letters = np.frombuffer(text, np.uint8)
    newlines = letters == ord("\n")
    stops = np.flatnonzero(newlines | (letters == ord(separator)))
    line_ends = np.flatnonzero(newlines)
    ends_line = newlines[stops]
    regular = len(stops) == num_columns * len(line_ends) and bool(ends_line[num_columns - 1 :: num_columns].all())
    if not regular:
        columns_found = np.diff(np.flatnonzero(ends_line), prepend=-1)
        line = int(np.flatnonzero(columns_found != num_columns)[0])
        fault = f"expected {num_columns} columns, found {columns_found[line]}"
        raise DataFileError(source, fault, f"line {first_line + line}")
    table = stops.reshape(-1, num_columns)
    line_starts = np.concatenate([[0], line_ends[:-1] + 1])
    columns = []
    for name, place in wanted.items():
        starts = table[:, place - 1] + 1 if place else line_starts
        ends = table[:, place]
        if place == num_columns - 1:
            ends = ends - (letters[np.maximum(ends - 1, 0)] == ord("\r"))
        widths = ends - starts
        if (widths <= 0).any():
            line = int((widths <= 0).argmax())
            raise DataFileError(source, f"the column {name!r} is empty", f"line {first_line + line}")
        columns.append(Texts(letters[ragged_positions(starts, widths)], splits_of(widths)))
    return columns
