"""A data set on one page: its size, how its interactions spread, and what the split made of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from data.interactions import Interactions, Split
from data.texts import Texts

BARS = "▁▂▃▄▅▆▇█"
CURVE_POINTS = 40


def card(interactions: Interactions, split: Split) -> Table:
    """What ``python -m data`` prints."""
    table = Table(title=interactions.name, show_header=False, title_justify="left")
    users, items, number = interactions.num_users, interactions.num_items, interactions.num_interactions
    lengths = interactions.counts
    popularity = np.sort(np.bincount(interactions.items, minlength=items))[::-1]
    shares = ", ".join(f"{share:.0%} of items: {popularity_share(popularity, share):.0%}" for share in (0.01, 0.1, 0.5))
    evaluated = int((split.test >= 0).sum())
    rows = {
        "users": f"{users:,}",
        "items": f"{items:,}",
        "interactions": f"{number:,}",
        "density": f"{number / users / items:.4%} (interactions over users × items)",
        "average length": f"{lengths.mean():.1f} interactions a user",
        "lengths": "least {:.0f}, quarter {:.0f}, median {:.0f}, three quarters {:.0f}, most {:.0f}".format(
            *np.percentile(lengths, [0, 25, 50, 75, 100])
        ),
        "popularity": f"{sparkline(popularity)}  (logarithm, most popular item first)",
        "": f"share of the interactions by the most popular {shares}",
        "split": f"train {len(split.train_items):,}, validation {evaluated:,}, test {evaluated:,}",
        "not evaluated": f"{users - evaluated:,} users with fewer than 3 interactions",
        "items not in train": f"{items - len(np.unique(split.train_items)):,}",
        "first ids": f"users {_first(interactions.user_ids)}; items {_first(interactions.item_ids)}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def popularity_share(popularity: NDArray[np.int64], share: float) -> float:
    """Part of all interactions that falls on the most popular ``share`` of the items; ``popularity`` (I,) falls."""
    return float(popularity[: max(1, round(share * len(popularity)))].sum() / popularity.sum())


def sparkline(popularity: NDArray[np.int64]) -> str:
    """The curve (I,) as bars, on a logarithmic scale from 1 to its maximum."""
    points = popularity[np.linspace(0, len(popularity) - 1, min(CURVE_POINTS, len(popularity))).astype(np.int64)]
    heights = np.log(np.maximum(points, 1)) / max(np.log(popularity.max()), 1e-9)
    return "".join(BARS[round(height * (len(BARS) - 1))] for height in heights)


def _first(ids: Texts) -> str:
    return ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
