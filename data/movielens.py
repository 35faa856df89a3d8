"""MovieLens-1M (Harper and Konstan 2015)."""

from __future__ import annotations

from pathlib import Path

from data.atomic import read_inter
from data.interactions import Interactions
from protocol.options import OptionError


def load_ml_1m(data_dir: Path) -> Interactions:
    """6,040 users, 3,706 items, 1,000,209 interactions, from what lies in the data directory."""
    path = data_dir / "ml-1m" / "ml-1m.inter.gz"
    if not path.exists():
        raise OptionError(f"ml-1m was not found in {data_dir}: expected ml-1m/ml-1m.inter.gz there.")
    return read_inter(path, "ml-1m")
