"""One look for all figures: colours that colour-blind readers tell apart, on paper and on both kinds of screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
"""Okabe and Ito's palette (2008), its yellow and black replaced: neither is seen on both a light and a dark page."""

BENIGN, MALICIOUS = COLOURS[0], COLOURS[1]
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "oo", "**")

SETTINGS: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    # The same numbers give the same file.
    "svg.hashsalt": "robust-fedrec",
    "svg.fonttype": "none",
}


@contextmanager
def drawing(width: float, height: float, panels: int = 1, rows: int = 1) -> Iterator[tuple[Any, Any]]:
    """A matplotlib figure in inches and its axes (an array of them for several panels), closed at the end."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    with mpl.rc_context(SETTINGS):
        figure, axes = pyplot.subplots(rows, panels, figsize=(width, height), layout="constrained")
        try:
            yield figure, axes
        finally:
            pyplot.close(figure)


def save(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write the figure as PNG and SVG; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    figure.savefig(png, metadata={"Software": None})
    figure.savefig(svg, metadata={"Date": None})
    return [png, svg]
