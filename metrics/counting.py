"""Several metrics in one evaluation: their counts by name, and the numbers that come out by part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from metrics.metric import CountLimits, Metric
from metrics.ranked import Ranked
from settings.options import OptionError

PARTS = ("valid", "test")
"""The held-out items: each user's last but one, and the last one."""

Metrics = Mapping[str, Mapping[str, float | None]]
"""Named numbers by part."""

USABLE_NAME = re.compile(r"[A-Za-z0-9_.@-]+")


def count_limits(metrics: Sequence[Metric], num_items: int) -> dict[str, CountLimits]:
    """What counts an answer must have, by name: a part alone for the first metric, test/coverage@5 for others."""
    return {
        name: CountLimits(metric.length(num_items), metric.per_user, metric.parts)
        for part in PARTS
        for name, metric in _named(metrics, part)
    }


def no_counts(metrics: Sequence[Metric], num_items: int) -> dict[str, Tensor]:
    """Counts of nobody, by name."""
    return {
        name: torch.zeros(limits.length, dtype=torch.int64) for name, limits in count_limits(metrics, num_items).items()
    }


def add_counts(counts: dict[str, Tensor], metrics: Sequence[Metric], part: str, blocks: Iterable[Ranked]) -> None:
    """Add what the metrics count of these users to ``counts`` (see ``no_counts``).

    Raises ``ValueError`` where a metric counts otherwise than it says.
    """
    for ranked in blocks:
        for name, metric in _named(metrics, part):
            found = metric.count(ranked).cpu()
            most, length = metric.parts * metric.per_user * len(ranked.users), len(counts[name])
            fits = found.dtype == torch.int64 and found.shape == (length,)
            if not fits or bool((found < 0).any()) or not len(ranked.users) <= int(found.sum()) <= most:
                raise ValueError(
                    f"The metric {metric.name!r} counted {found.dtype} {tuple(found.shape)} with the sum "
                    f"{found.sum()} for {len(ranked.users)} users. Expected {length} int64 counts, none negative: at "
                    f"least 1 and at most per_user · parts = {metric.per_user * metric.parts} a user."
                )
            counts[name] += found


def metrics_of(metrics: Sequence[Metric], totals: Mapping[str, Sequence[int]]) -> Metrics:
    """The numbers that come out of all nodes' counts, by part; ``None`` where nobody was counted."""
    found: dict[str, dict[str, float | None]] = {part: {} for part in PARTS} if metrics else {}
    for part in found:
        for name, metric in _named(metrics, part):
            values = metric.values(totals[name]) if any(totals[name]) else {}
            found[part].update({one: values.get(one) for one in metric.names})
    return found


def users_counted(metrics: Sequence[Metric], totals: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """How many users were counted, by part: the first metric counts each of them once."""
    return {part: sum(totals[part]) for part in PARTS if metrics}


def require_usable(metrics: Sequence[Metric], where: str) -> None:
    """Raise ``OptionError``, which begins with ``where``, unless these metrics can stand beside each other."""
    names, numbers = set[str](), set[str]()
    for metric in metrics:
        for known, name in ((names, metric.name), *((numbers, one) for one in metric.names)):
            if name in known or not USABLE_NAME.fullmatch(name):
                raise OptionError(
                    f"{where}: a metric or one of its numbers is called {name!r}. Expected a name of letters, digits "
                    "and '_.@-' that no other metric has."
                )
            known.add(name)
        if metric.per_user < 1 or not metric.names:
            raise OptionError(f"{where}: the metric {metric.name!r} needs names, and per_user of at least 1.")


def _named(metrics: Sequence[Metric], part: str) -> Iterator[tuple[str, Metric]]:
    for index, metric in enumerate(metrics):
        yield (f"{part}/{metric.name}" if index else part), metric
