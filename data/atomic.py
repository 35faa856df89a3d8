"""RecBole's atomic files: tab-separated text whose header names and types the columns."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from data.columns import chosen_columns, require_columns
from data.delimited import read_columns
from data.file_error import DataFileError
from data.ids import require_readable
from data.interactions import Interactions, from_columns
from data.numerals import numbers
from data.texts import Texts
from settings.options import OptionError

COLUMNS = ("user_id", "item_id", "timestamp")


def read_inter(path: Path, name: str | None = None, columns: str = "") -> Interactions:
    """Interactions of an ``.inter`` or ``.inter.gz`` file; columns beside the three that are needed are ignored.

    ``columns``: the option, where they are not called as in ``COLUMNS``. Raises ``OptionError`` naming the file, and
    the line where one is broken.
    """
    source, chosen = str(path), chosen_columns(columns, COLUMNS)
    with opened(path) as file:
        header = _header(file, source, chosen)
        wanted = {column: header.index(column) for column in chosen}
        chunks = [found for _, found in read_columns(file, source, b"\t", len(header), wanted, first_line=2)]
    if not chunks:
        raise DataFileError(source, "it holds no interactions, only a header")
    users, items, times = (Texts.concatenate(column) for column in zip(*chunks, strict=True))
    return from_columns(
        name or path.name,
        require_readable(users, source, chosen[0], 2),
        require_readable(items, source, chosen[1], 2),
        numbers(times, source, "timestamp", 2),
    )


def write_inter(interactions: Interactions, path: Path) -> None:
    """Write a file that ``read_inter`` reads, packed where its name ends in ``.gz``; equal data give equal bytes."""
    users = np.repeat(np.arange(interactions.num_users), interactions.counts).tolist()
    times = (str(time) for time in np.asarray(interactions.times).tolist())
    user_ids, item_ids = interactions.user_ids.tolist(), interactions.item_ids.tolist()
    rows = zip(users, np.asarray(interactions.items).tolist(), times, strict=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"{user_ids[user]}\t{item_ids[item]}\t{time}" for user, item, time in rows]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


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


def _header(file: BinaryIO, source: str, wanted: Sequence[str]) -> list[str]:
    line = file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n")
    if not line:
        raise DataFileError(source, "the file does not begin with a header", "line 1")
    header = [field.partition(":")[0] for field in line.split("\t")]
    form = "; a header is tab-separated name:type, such as user_id:token, item_id:token and timestamp:float"
    require_columns(wanted, header, source, "line 1", form)
    return header
