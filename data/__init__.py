"""Data sets as interactions, their splits, and who hosts whom."""

from __future__ import annotations

from robust_fedrec import require_own

require_own(__name__)

import os
import stat
from collections.abc import Callable
from pathlib import Path

from data.cache import cached
from data.columns import parse_columns
from data.interactions import Interactions
from settings.options import OptionError, require
from settings.paths import absolute, is_file, status_of

__all__ = ["DATASETS", "FORMATS", "default_data_dir", "load", "located", "version_of"]


# Each loader is imported where it is used: who trains on one data set does not pay for the others.
def _synthetic(data_dir: Path) -> Interactions:
    from data.synthetic import synthetic

    return synthetic()


def _scale(data_dir: Path) -> Interactions:
    from data.scale import scale

    return cached("scale", [], data_dir, scale)


def _scale_10k(data_dir: Path) -> Interactions:
    from data.scale import scale

    return cached("scale-10k", [], data_dir, lambda: scale(10_000, name="scale-10k"))


def _ml_1m(data_dir: Path) -> Interactions:
    from data.movielens import load_ml_1m

    return load_ml_1m(data_dir)


def _gowalla(data_dir: Path) -> Interactions:
    from data.gowalla import load_gowalla

    return load_gowalla(data_dir)


def _inter(path: Path, columns: str) -> Interactions:
    from data.atomic import read_inter

    return read_inter(path, columns=columns)


def _table(path: Path, columns: str) -> Interactions:
    from data.tabular import read_table

    return read_table(path, columns)


DATASETS: dict[str, Callable[[Path], Interactions]] = {
    "synthetic": _synthetic,
    "ml-1m": _ml_1m,
    "gowalla": _gowalla,
    "scale": _scale,
    "scale-10k": _scale_10k,
}
FORMATS: dict[str, Callable[[Path, str], Interactions]] = {
    ".inter": _inter,
    ".inter.gz": _inter,
    ".csv": _table,
    ".parquet": _table,
}


def load(name_or_path: str, data_dir: str | Path | None = None, columns: str = "") -> Interactions:
    """The data set of a name among ``DATASETS``, or of a file that ends in one of ``FORMATS``.

    ``data_dir`` is where named data sets are looked for and downloaded to, and where what was parsed is
    cached; default: ``default_data_dir()``. ``columns``: which of a file's columns are which (see
    ``data.columns``). Raises ``OptionError`` for an unknown name, a missing or broken file, or a download that fails.
    """
    directory = absolute("data-dir", data_dir) if data_dir else default_data_dir()
    parse_columns(columns)
    if name_or_path in DATASETS:
        require(not columns, "columns", columns, f"nothing with {name_or_path!r}, whose columns are known")
        return DATASETS[name_or_path](directory)
    for ending, read in FORMATS.items():
        if name_or_path.endswith(ending):
            path = absolute("dataset", name_or_path)
            if not is_file("dataset", path):
                raise OptionError(f"dataset = {name_or_path!r}: there is no such file.")
            return cached(path.name, [path], directory, lambda: read(path, columns), columns)  # noqa: B023
    raise OptionError(
        f"dataset = {name_or_path!r}: expected one of {', '.join(map(repr, DATASETS))}, "
        f"or the path of a file that ends in {', '.join(FORMATS)}."
    )


def located(name_or_path: str) -> str:
    """A data set's name as it is, a file's path made absolute. Raises ``OptionError`` for what can be no path."""
    return str(absolute("dataset", name_or_path)) if name_or_path.endswith(tuple(FORMATS)) else name_or_path


def version_of(name_or_path: str) -> tuple[int, int]:
    """When a data set's file was changed, in nanoseconds, and its size; zeros for a name."""
    found = None if name_or_path in DATASETS else status_of("dataset", absolute("dataset", name_or_path))
    return (0, 0) if found is None or not stat.S_ISREG(found.st_mode) else (found.st_mtime_ns, found.st_size)


def default_data_dir() -> Path:
    """``ROBUST_FEDREC_DATA`` if set, else ``~/.cache/robust-fedrec``."""
    return absolute("data-dir", os.environ.get("ROBUST_FEDREC_DATA") or "~/.cache/robust-fedrec")
