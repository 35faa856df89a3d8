"""Which of a file's columns are the users, the items and the times: the option ``columns``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from data.file_error import DataFileError
from settings.options import OptionError

EXAMPLE = "user=userId item=movieId time=timestamp"
ROLES = ("user", "item", "time")


def parse_columns(text: str) -> Mapping[str, str]:
    """The columns' names by role, of those roles that are given; a name with blanks stands in quotes.

    Raises ``OptionError`` for another form, an unknown role, or a role or a name that is given twice.
    """
    wrong = OptionError(f"columns = {text!r}: expected names by role, such as {EXAMPLE!r}.")
    try:
        pairs = [part.partition("=")[::2] for part in shlex.split(text)]
    except ValueError:
        raise wrong from None
    names = dict(pairs)
    if not len(pairs) == len(names) == len(set(names.values())) or not set(names) <= set(ROLES) or "" in names.values():
        raise wrong
    return names


def chosen_columns(text: str, usual: Sequence[str]) -> tuple[str, str, str]:
    """The names of the columns of users, items and times; ``usual``: those that a file of this kind has by default."""
    names = {**dict(zip(ROLES, usual, strict=True)), **parse_columns(text)}
    return names["user"], names["item"], names["time"]


def require_columns(wanted: Sequence[str], there: Sequence[str], source: str, row: str = "", form: str = "") -> None:
    """Raise ``DataFileError`` where a column is missing or stands there twice; ``form``: what the header is like."""
    missing = [name for name in wanted if name not in there]
    if missing:
        fault = f"there is no column {' and no '.join(map(repr, missing))}"
        found = ", ".join(map(repr, there)) or "none"
        detail = f'its columns are {found}; say which is which by the option columns, as in "{EXAMPLE}"{form}'
        raise DataFileError(source, fault, row, detail)
    for name in wanted:
        if list(there).count(name) > 1:
            raise DataFileError(source, f"there are {list(there).count(name)} columns {name!r}", row)
