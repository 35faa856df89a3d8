"""The ids of users and items: what they may be, and the indexes that they get."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.file_error import DataFileError
from data.texts import Texts
from settings.options import OptionError

LONGEST_NUMBER = 18
"""Digits that are sure to fit in 64 bits."""


def require_readable(ids: Texts, source: str, column: str, first_row: int, row: str = "line") -> Texts:
    """The same ids, one a row of a file.

    Raises ``DataFileError`` naming the ``row`` of the first that is empty, not UTF-8, or has a NUL in it.
    """
    faults = {
        "is empty": ids.widths == 0,
        "has a NUL character in it (is the file UTF-16?)": _rows_with(ids, ids.letters == 0),
        "is not UTF-8": _not_utf8(ids),
    }
    for fault, rows in faults.items():
        if rows.any():
            index = int(rows.argmax())
            raise DataFileError(source, f"the id in the column {column!r} {fault}", f"{row} {first_row + index}")
    return ids


def index_ids(ids: Texts | NDArray[Any], name: str) -> tuple[Texts, NDArray[np.int64]]:
    """The distinct ids in ascending order, and every row's index among them.

    The order is that of their value where all are whole numbers, else of their text. Raises ``OptionError`` for ids
    that are not readable (see ``require_readable``).
    """
    if isinstance(ids, np.ndarray) and ids.dtype.kind not in "iuSU":
        raise ValueError(f"Ids must be integers, text or bytes, not {ids.dtype}.")
    numbers = whole_numbers(ids)
    if numbers is not None:
        values, indexes = np.unique(numbers, return_inverse=True)
        return Texts.of_array(values), indexes.reshape(-1)
    texts = ids if isinstance(ids, Texts) else Texts.of_array(ids)
    if (texts.letters == 0).any() or _not_utf8(texts).any():
        raise OptionError(f"The data set {name!r} has an id that is not UTF-8, or has a NUL character in it.")
    return texts.distinct()


def whole_numbers(ids: Texts | NDArray[Any]) -> NDArray[np.int64] | None:
    """The ids as int64 if all are whole numbers as a computer writes them (no sign, no leading zero), else None."""
    if isinstance(ids, np.ndarray):
        if ids.dtype.kind in "iu" and (not len(ids) or (ids.min() >= 0 and ids.max() < 10**LONGEST_NUMBER)):
            return ids.astype(np.int64, copy=False)
        # As text larger ones would not count as numbers either: the order must not depend on the file's form.
        ids = Texts.of_array(ids)
    widths, letters = ids.widths, ids.letters
    if len(ids) and (widths.min() == 0 or widths.max() > LONGEST_NUMBER):
        return None
    if ((letters < ord("0")) | (letters > ord("9"))).any():
        return None
    starts = ids.splits[:-1]
    if ((letters[starts] == ord("0")) & (widths > 1)).any():
        return None
    values = np.zeros(len(ids), np.int64)
    for place in range(int(widths.max(initial=0))):
        longer = np.flatnonzero(widths > place)
        values[longer] = values[longer] * 10 + (letters[starts[longer] + place] - ord("0"))
    return values


def _not_utf8(ids: Texts) -> NDArray[np.bool_]:
    """(n,) which are not."""
    try:
        ids.letters.tobytes().decode()
        # Each id must begin with a character, not in the middle of one.
        whole = not (ids.letters[ids.splits[:-1][ids.widths > 0]] & 0xC0 == 0x80).any()
    except UnicodeDecodeError:
        whole = False
    return np.zeros(len(ids), np.bool_) if whole else np.array([_broken(ids, k) for k in range(len(ids))], np.bool_)


def _broken(ids: Texts, index: int) -> bool:
    try:
        ids[index]
    except UnicodeDecodeError:
        return True
    return False


def _rows_with(ids: Texts, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) which ids have a letter among the wanted ones."""
    rows = np.zeros(len(ids), np.bool_)
    rows[np.searchsorted(ids.splits, np.flatnonzero(wanted), side="right") - 1] = True
    return rows
