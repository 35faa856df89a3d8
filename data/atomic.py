"""RecBole's atomic files: tab-separated text whose header names and types the columns."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from data.delimited import numbers, read_columns
from data.interactions import Interactions, from_columns
from settings.options import OptionError

COLUMNS = ("user_id", "item_id", "timestamp")


def read_inter(path: Path, name: str | None = None) -> Interactions:
    """Interactions of an ``.inter`` or ``.inter.gz`` file; columns beside ``COLUMNS`` are ignored.

    Raises ``OptionError`` naming the file, and the line where one is broken.
    """
    source = str(path)
    users, items, times = [], [], []
    with opened(path) as file:
        header = _header(file, source)
        wanted = [header.index(column) for column in COLUMNS]
        for line, (user, item, time) in read_columns(file, source, b"\t", len(header), wanted, first_line=2):
            users.append(user)
            items.append(item)
            times.append(numbers(time, source, line, "timestamp"))
    if not users:
        raise OptionError(f"{source} holds no interactions, only a header.")
    return from_columns(name or path.name, np.concatenate(users), np.concatenate(items), np.concatenate(times))


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file to read bytes from, unpacked on the way where its name ends in ``.gz``.

    Raises ``OptionError`` where it is missing, not readable, or not whole.
    """
    try:
        with cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise OptionError(f"{path} does not exist: expected a data file there.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OptionError(f"{path} is not a whole gzip file ({error}): get it again.") from None
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror or error}.") from None


def _header(file: BinaryIO, source: str) -> list[str]:
    line = file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n")
    header = [field.partition(":")[0] for field in line.split("\t")]
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise OptionError(
            f"{source}, line 1: the header has no column {' and no '.join(missing)}. Expected tab-separated "
            "name:type, such as user_id:token, item_id:token and timestamp:float."
        )
    return header
