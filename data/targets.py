"""Which items an attack promotes: named by their ids, or drawn from those with few interactions."""

from __future__ import annotations

import re

import numpy as np

import draws
from data.interactions import Interactions
from draws import Stream
from settings.options import require

UNPOPULAR = 0.5
"""Targets are drawn from this share of the items, those with the fewest interactions."""


def target_items(asked: str, interactions: Interactions, seed: int) -> tuple[int, ...]:
    """The indexes, ascending, of ``asked``: ids as in the data joined by ",", ``coldest:N``, or ``random:N``; "": none.

    ``coldest`` are the N items with the fewest interactions, of equal ones those that the seed draws; ``random`` are
    N of the less popular half. Raises ``OptionError`` for an item that is not in the data, and for too many.
    """
    if not asked:
        return ()
    form = re.fullmatch(r"(coldest|random):(\d+)", asked)
    if form is None:
        return _named(asked, interactions)
    number, num_items = int(form[2]), interactions.num_items
    most = num_items if form[1] == "coldest" else int(num_items * UNPOPULAR)
    require(1 <= number <= most, "target-items", asked, f"from 1 to {most} items")
    counts = np.bincount(interactions.items, minlength=num_items)
    generator = draws.generator(seed, Stream.TARGET_ITEMS)
    shuffled = generator.permutation(num_items)
    coldest = shuffled[np.argsort(counts[shuffled], kind="stable")]
    chosen = coldest[:number] if form[1] == "coldest" else generator.choice(coldest[:most], number, replace=False)
    return tuple(sorted(chosen.tolist()))


def _named(asked: str, interactions: Interactions) -> tuple[int, ...]:
    index = {str(item): place for place, item in enumerate(interactions.item_ids)}
    found = set()
    for name in (part.strip() for part in asked.split(",")):
        require(name in index, "target-items", name, "an item's id as in the data, coldest:N, or random:N")
        found.add(index[name])
    return tuple(sorted(found))
