"""Numbers out of text, without losing which of two is the larger."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.file_error import DataFileError
from data.ids import whole_numbers
from data.texts import Texts

SURE_DIGITS = 15
"""Different numbers of no more decimal digits are different as float64, too."""


def numbers(column: Texts, source: str, what: str, first_row: int, row: str = "line") -> NDArray[Any]:
    """A column (n,) as int64 where all are whole numbers, else float64.

    Raises ``DataFileError`` naming the row of the first that is no finite number, or that float64 cannot tell from
    another one.
    """
    values = _numbers(column)
    if values is None:
        index = next(k for k, field in enumerate(column.as_bytes()) if not _is_number(field))
        found = column[index : index + 1].as_bytes()[0].decode(errors="replace")
        raise DataFileError(source, f"the {what} is no number", f"{row} {first_row + index}", repr(found))
    twin = None if values.dtype == np.int64 else _twin(column, values)
    if twin is not None:
        fault = (
            f"the {what} has more digits than a number with a fraction can have, and is not told from that in {row} "
            f"{first_row + twin[0]}; write all of them as whole numbers, in a smaller unit"
        )
        raise DataFileError(source, fault, f"{row} {first_row + twin[1]}")
    return values


def are_numbers(column: Texts) -> bool:
    """Whether ``numbers`` would take the first of the texts."""
    return bool(len(column)) and _is_number(column[:1].as_bytes()[0])


def _numbers(column: Texts) -> NDArray[Any] | None:
    whole = whole_numbers(column)
    if whole is not None:
        return whole
    if (column.letters == 0).any():
        # NumPy's bytes end at a NUL.
        return None
    for kind in (np.int64, np.float64):
        values = np.empty(len(column), kind)
        try:
            for rows, fields in column.by_width():
                values[rows] = fields.astype(kind)
        except (ValueError, OverflowError):
            continue
        if np.isfinite(values).all():
            return values
    return None


def _twin(column: Texts, values: NDArray[np.float64]) -> tuple[int, int] | None:
    """The rows of the first two different numbers that are the same as float64."""
    if column.widths.max(initial=0) <= SURE_DIGITS:
        return None
    exact: dict[float, tuple[Decimal, int]] = {}
    for index, (value, field) in enumerate(zip(values.tolist(), column.as_bytes(), strict=True)):
        number = Decimal(field.decode())
        known, first = exact.setdefault(value, (number, index))
        if known != number:
            return first, index
    return None


def _is_number(field: bytes) -> bool:
    try:
        return bool(np.isfinite(float(field)))
    except ValueError:
        return False
