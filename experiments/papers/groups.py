"""For whom and for what a trained model works: HR by user activity and by item popularity, and coverage.

Needs the users' private vectors, which only the simulation that made them has: a run with checkpoints keeps them
in its directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.hosting import malicious_seed
from client.recommend import read_model
from client.state.about import kept_states, kept_users, opened, read_about, states_of
from client.state.private_vectors import PrivateVectors
from data import load
from data.partition import never_evaluated
from data.shard import Shard, load_shard
from experiments.report.sheet import Sheet
from metrics.counting import Metrics, add_counts, metrics_of, no_counts
from metrics.coverage import Coverage
from metrics.groups import RankingByGroup, by_activity, by_popularity
from metrics.ranked import HeldOut, ranked
from metrics.ranking import Ranking, ranking_metrics
from server.simulation import default_options
from settings.options import OptionError, read
from settings.run import RunOptions

TOP = 5
GROUPS = 5

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """``users`` whose activity, or whose test item's popularity, is ``fewest`` to ``most``: their HR@5 and NDCG@5."""

    fewest: int
    most: int
    users: int
    hit_ratio: float
    ndcg: float


@dataclass(frozen=True)
class Breakdown:
    """A run's evaluated ``users`` at its last model, in groups of about equally many, those with the least first.

    ``metrics``: of all of them together on ``test``, the coverage of ``num_items`` items among them.
    """

    activity: list[Group]
    popularity: list[Group]
    metrics: Metrics
    users: int
    num_items: int


@dataclass(frozen=True)
class KeptUsers:
    """A run's evaluated users at its last model: the item ``table``, and ``parts`` of users with their vectors.

    ``popularity`` (num_items,): how many training interactions each item has.
    """

    table: torch.Tensor
    parts: Sequence[tuple[torch.Tensor, HeldOut]]
    popularity: Ints


def break_down(run: Path) -> Breakdown:
    """Rank the test items of a run's evaluated users at its last model. Raises ``OptionError`` where that cannot be."""
    kept = kept_users_of(run)
    return _broken_down(kept.table, kept.parts, kept.popularity)


def kept_users_of(run: Path) -> KeptUsers:
    """The evaluated users whose vectors a run's nodes kept. Raises ``OptionError`` where there are none."""
    try:
        options = json.loads((run / "config.json").read_text(encoding="utf-8"))["options"]
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(f"{run} is not the directory of a run that ended ({error}).") from error
    if options["model"] != "mf":
        raise OptionError(f"{run} trained {options['model']}: only MF's users keep a vector that can be ranked with.")
    interactions = load(options["dataset"], options["data-dir"] or None, options.get("columns", ""))
    drawn_by = malicious_seed(read(RunOptions, {**default_options(), **options}))
    unseen = never_evaluated(interactions.num_users, options["malicious-fraction"], drawn_by)
    model = read_model(run / "model.safetensors")
    table = model.rows
    elsewhere = options["state-dir"]
    states = states_of(model.run, kept_states(Path(elsewhere) if elsewhere else run / "nodes"))
    parts = list[tuple[torch.Tensor, HeldOut]]()
    for users, vectors in _private(states, summary["rounds"], table.shape[1]):
        chosen = ~np.isin(users, unseen)
        shard = load_shard(interactions, users[chosen])
        whole = (shard.valid >= 0) & (shard.test >= 0)
        parts.append((vectors[chosen][whole], _test_items(load_shard(interactions, shard.users[whole]))))
    if not parts:
        raise OptionError(
            f"{run} kept no private vectors: train on the engine ray or local, or with "
            "state-dir, and with checkpoint-every above 0."
        )
    everybody = load_shard(interactions, np.arange(interactions.num_users))
    return KeptUsers(table, parts, np.bincount(everybody.train_items, minlength=len(table)))


def groups_sheet(run: Path) -> Sheet:
    """A run's table of groups."""
    found = break_down(run)
    rows, records = list[list[str]](), list[dict[str, object]]()
    kinds = {"activity (training items)": found.activity, "popularity of the test item": found.popularity}
    for kind, groups in kinds.items():
        for group in groups:
            texts = [f"{group.fewest} to {group.most}", str(group.users), f"{group.hit_ratio:.4f}", f"{group.ndcg:.4f}"]
            rows.append([kind, *texts])
            records.append({"by": kind, **vars(group)})
    coverage = found.metrics["test"][f"coverage@{TOP}"] or 0.0
    text = f"{found.users} evaluated users at the last model; {coverage:.1%} of the "
    text += f"{found.num_items} items stand in somebody's top {TOP}."
    return Sheet(f"For whom: {run.resolve().name}", ["by", "range", "users", "HR@5", "NDCG@5"], rows, records, [text])


def _private(states: Sequence[Path], rounds: int, dim: int) -> Iterator[tuple[Ints, torch.Tensor]]:
    for directory in states:
        store = opened(directory)
        about = read_about(store)
        with store.begin():
            if about is None:
                continue
            users = kept_users(store).users
            private = PrivateVectors(store, about.num_users, dim, about.seed)
            vectors = private.at(users, rounds + 1, about.learning_rate).vectors
        yield users, vectors


def _test_items(shard: Shard) -> HeldOut:
    items, valid, test = (column.astype(np.int64) for column in (shard.train_items, shard.valid, shard.test))
    return HeldOut(shard.users, shard.train_splits, items, test, valid)


def _broken_down(table: torch.Tensor, parts: Sequence[tuple[torch.Tensor, HeldOut]], popularity: Ints) -> Breakdown:
    active = np.concatenate([np.diff(held_out.splits) for _, held_out in parts])
    popular = popularity[np.concatenate([held_out.targets for _, held_out in parts])]
    of_activity = by_activity(_edges(active))
    of_popularity = by_popularity(_edges(popular), torch.from_numpy(popularity))
    metrics = (Ranking(), Coverage(TOP), of_activity, of_popularity)
    counts = no_counts(metrics, len(table))
    for vectors, held_out in parts:
        add_counts(counts, metrics, "test", ranked(table, vectors, held_out))
    totals = {name: values.tolist() for name, values in counts.items()}
    return Breakdown(
        _groups(of_activity, totals["test/activity"], active),
        _groups(of_popularity, totals["test/popularity"], popular),
        metrics_of(metrics, totals),
        len(active),
        len(table),
    )


def _edges(values: Ints) -> list[int]:
    """Where to cut so that about equally many values lie in each group."""
    cuts = np.quantile(values, np.linspace(0, 1, GROUPS + 1)[1:-1], method="inverted_cdf")
    found: list[int] = np.unique(cuts).tolist()
    return found


def _groups(metric: RankingByGroup, totals: Sequence[int], values: Ints) -> list[Group]:
    inside, groups = np.searchsorted(metric.edges.numpy(), values), list[Group]()
    for number, histogram in enumerate(metric.histograms(totals)):
        found, own = ranking_metrics(histogram), values[inside == number]
        hit_ratio, ndcg = found[f"hr@{TOP}"], found[f"ndcg@{TOP}"]
        if hit_ratio is not None and ndcg is not None:
            groups.append(Group(int(own.min()), int(own.max()), sum(histogram), hit_ratio, ndcg))
    return groups
