"""MovieLens-1M (Harper and Konstan 2015): GroupLens' own file, or the same ratings as a RecBole file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO, cast

from data.atomic import opened, read_inter
from data.cache import cached
from data.delimited import read_columns
from data.download import download
from data.file_error import DataFileError
from data.ids import require_readable
from data.interactions import Interactions, expect_counts, from_columns
from data.numerals import numbers
from data.texts import Texts
from settings.options import OptionError
from settings.paths import status_of

URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
MD5 = "c4d9eecfca2ab87c1945afe126590906"
RATING = {"UserID": 0, "MovieID": 2, "Timestamp": 6}
"""Places of the columns to a one-byte separator, for which every other of 7 columns is empty."""

COUNTS = (6_040, 3_706, 1_000_209)


def load_ml_1m(data_dir: Path) -> Interactions:
    """Users, items and interactions as in ``COUNTS``, movie titles where the source has them.

    Looks for ``ml-1m.zip``, ``ml-1m/ratings.dat`` and ``ml-1m/ml-1m.inter.gz`` in this order, and
    downloads the first from GroupLens where there is none. Raises ``OptionError`` where that fails or the
    file is not the official one.
    """
    folder = data_dir / "ml-1m"
    readers: dict[Path, Callable[[Path], Interactions]] = {
        data_dir / "ml-1m.zip": _read_zip,
        folder / "ratings.dat": _read_folder,
        folder / "ml-1m.inter.gz": lambda path: read_inter(path, "ml-1m"),
    }
    source = next((path for path in readers if status_of("data-dir", path)), None)
    if source is None:
        names = ", ".join(str(path.relative_to(data_dir)) for path in readers)
        try:
            source = download(URL, data_dir / "ml-1m.zip", MD5)
        except OptionError as error:
            raise OptionError(f"ml-1m: none of {names} is in {data_dir}, and {error}") from None
    read = readers[source]
    return cached("ml-1m", [source], data_dir, lambda: expect_counts(read(source), *COUNTS, str(source)))


def _read_zip(path: Path) -> Interactions:
    try:
        with zipfile.ZipFile(path) as archive:
            titles = _titles(archive.open("ml-1m/movies.dat")) if "ml-1m/movies.dat" in archive.namelist() else None
            with archive.open("ml-1m/ratings.dat") as ratings:
                return _read_ratings(cast(BinaryIO, ratings), f"{path}, ml-1m/ratings.dat", titles)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise OptionError(
            f"{path} is not a whole ml-1m.zip ({error}): remove it, and it is downloaded again."
        ) from None


def _read_folder(path: Path) -> Interactions:
    movies = path.with_name("movies.dat")
    titles = None
    if status_of("data-dir", movies):
        with opened(movies) as file:
            titles = _titles(file)
    with opened(path) as ratings:
        return _read_ratings(ratings, str(path), titles)


def _read_ratings(file: BinaryIO, source: str, titles: dict[str, str] | None) -> Interactions:
    """``UserID::MovieID::Rating::Timestamp`` lines."""
    chunks = [columns for _, columns in read_columns(file, source, b":", 7, RATING)]
    if not chunks:
        raise DataFileError(source, "the file is empty")
    users, items, times = (Texts.concatenate(column) for column in zip(*chunks, strict=True))
    return from_columns(
        "ml-1m",
        require_readable(users, source, "UserID", 1),
        require_readable(items, source, "MovieID", 1),
        numbers(times, source, "timestamp", 1),
        titles,
    )


def _titles(file: IO[bytes]) -> dict[str, str]:
    """``MovieID::Title::Genres`` lines in Latin-1."""
    rows = (line.decode("latin-1").split("::") for line in file)
    return {row[0]: row[1] for row in rows if len(row) > 1}
