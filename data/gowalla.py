"""Gowalla's check-ins (Cho et al. 2011), of the users and places that NGCF's 10-core keeps (Wang et al. 2019)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from data.atomic import opened
from data.cache import cached
from data.delimited import read_columns
from data.download import download, progress_bar
from data.file_error import DataFileError
from data.interactions import Interactions, expect_counts, from_columns
from data.numerals import numbers
from data.texts import Texts
from settings.options import OptionError

CHECKINS = "loc-gowalla_totalCheckins.txt.gz"
CHECKINS_URL = f"https://snap.stanford.edu/data/{CHECKINS}"
LISTS_URL = "https://raw.githubusercontent.com/xiangwang1223/neural_graph_collaborative_filtering/master/Data/gowalla/"
LISTS = ("user_list.txt", "item_list.txt")
CHECKIN = {"user": 0, "time": 1, "place": 4}
COUNTS = (29_858, 40_981, 1_585_043)


def load_gowalla(data_dir: Path) -> Interactions:
    """Users, items and check-ins as in ``COUNTS``, repeats kept, by time.

    Looks for the three files in ``gowalla/`` of the data directory and downloads what is missing. Raises
    ``OptionError`` where that fails or the files are not the official ones.
    """
    folder = data_dir / "gowalla"
    lists = [download(LISTS_URL + name, folder / name, check=_wrong_list) for name in LISTS]
    checkins = download(CHECKINS_URL, folder / CHECKINS, check=_wrong_gzip)
    return cached(
        "gowalla",
        [checkins, *lists],
        data_dir,
        lambda: expect_counts(read_checkins(checkins, *lists), *COUNTS, str(checkins)),
    )


def read_checkins(checkins: Path, user_list: Path, item_list: Path) -> Interactions:
    """The check-ins of the listed users at the listed places; memory does not grow with those of others.

    Lines are user, UTC time as in 2010-10-19T23:55:27Z, latitude, longitude, place, with tabs between.
    """
    source = str(checkins)
    wanted_users, wanted_items = read_list(user_list), read_list(item_list)
    kept: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
    with checkins.open("rb") as packed, progress_bar() as progress:
        task = progress.add_task("reading check-ins", total=checkins.stat().st_size)
        try:
            with cast(BinaryIO, gzip.GzipFile(fileobj=packed)) as file:
                for line, (user, time, item) in read_columns(file, source, b"\t", 5, CHECKIN):
                    users, items = numbers(user, source, "user", line), numbers(item, source, "place", line)
                    seconds = _seconds(time, source, line)
                    mask = np.isin(users, wanted_users) & np.isin(items, wanted_items)
                    kept.append((users[mask], items[mask], seconds[mask]))
                    progress.update(task, completed=packed.tell())
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise OptionError(f"{source} is not a whole gzip file ({error}): remove it and get it again.") from None
    users, items, times = (np.concatenate(column) for column in zip(*kept, strict=True))
    return from_columns("gowalla", users, items, times)


def read_list(path: Path) -> NDArray[np.int64]:
    """The original ids of an NGCF list: a header ``org_id remap_id``, then lines of two numbers."""
    source = str(path)
    with opened(path) as file:
        header = file.readline().split()
        if header[:1] != [b"org_id"]:
            raise DataFileError(source, "expected the header 'org_id remap_id'", "line 1", f"found {header!r}")
        chunks = [
            numbers(ids, source, "id", line)
            for line, (ids,) in read_columns(file, source, b" ", 2, {"org_id": 0}, first_line=2)
        ]
    ids: NDArray[np.int64] = np.concatenate(chunks) if chunks else np.empty(0, np.int64)
    return ids


def _seconds(column: Texts, source: str, first_line: int) -> NDArray[np.int64]:
    """(n,) seconds since 1970."""
    seconds = np.empty(len(column), np.int64)
    for rows, fields in column.by_width():
        plain = np.char.rstrip(fields, b"Z")
        try:
            seconds[rows] = plain.astype("datetime64[s]").astype(np.int64)
        except ValueError:
            row, field = next((row, field) for row, field in zip(rows, plain, strict=True) if not _is_time(field))
            fault = "the time is not like 2010-10-19T23:55:27Z"
            raise DataFileError(source, fault, f"line {first_line + row}", repr(field)) from None
    return seconds


def _is_time(field: np.bytes_) -> bool:
    try:
        field.astype("datetime64[s]")
    except ValueError:
        return False
    return True


def _wrong_list(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(6)
    return None if start == b"org_id" else f"it begins with {start!r}, not with a header 'org_id remap_id'"


def _wrong_gzip(path: Path) -> str | None:
    with path.open("rb") as file:
        return None if file.read(2) == b"\x1f\x8b" else "it is not a gzip file"
