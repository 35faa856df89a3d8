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
from client.state.about import kept_states, kept_users, read_about, states_of
from client.state.private_vectors import PrivateVectors
from data import load
from data.interactions import ragged_positions
from data.partition import never_evaluated
from data.shard import Shard, load_shard
from experiments.report.sheet import Sheet
from server.simulation import default_options
from settings.options import OptionError, read
from settings.run import RunOptions

TOP = 5
GROUPS = 5
USERS_AT_ONCE = 512

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ranked:
    """The evaluated users' test items and lists: ``rank`` (n,) of each test item, ``top`` (n, 5) recommended items,
    ``activity`` (n,) training items of the user, ``target`` (n,) the test item; ``popularity`` (num_items,) training
    interactions of every item, over all users.
    """

    rank: Ints
    top: Ints
    activity: Ints
    target: Ints
    popularity: Ints


@dataclass(frozen=True)
class Group:
    """``users`` whose activity, or whose test item's popularity, is ``fewest`` to ``most``: their HR@5 and NDCG@5."""

    fewest: int
    most: int
    users: int
    hit_ratio: float
    ndcg: float


def rank_run(run: Path) -> Ranked:
    """Rank the test items of a run's evaluated users at its last model. Raises ``OptionError`` where that cannot be."""
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
    parts = list[tuple[Ints, Ints, Ints, Ints]]()
    elsewhere = options["state-dir"]
    states = states_of(model.run, kept_states(Path(elsewhere) if elsewhere else run / "nodes"))
    for users, vectors in _private(states, summary["rounds"]):
        chosen = ~np.isin(users, unseen)
        shard = load_shard(interactions, users[chosen])
        whole = (shard.valid >= 0) & (shard.test >= 0)
        shard, kept = load_shard(interactions, shard.users[whole]), vectors[chosen][whole]
        parts += list(_ranked(table, kept, shard))
    if not parts:
        raise OptionError(
            f"{run} kept no private vectors: train on the engine ray or local, or with "
            "state-dir, and with checkpoint-every above 0."
        )
    everybody = load_shard(interactions, np.arange(interactions.num_users))
    popularity = np.bincount(everybody.train_items, minlength=len(table))
    rank, top, activity, target = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Ranked(rank, top, activity, target, popularity)


def by_activity(ranked: Ranked) -> list[Group]:
    """Groups of about equally many users, the least active first."""
    return _groups(ranked.rank, ranked.activity)


def by_popularity(ranked: Ranked) -> list[Group]:
    """Groups of about equally many users, those with the least popular test items first."""
    return _groups(ranked.rank, ranked.popularity[ranked.target])


def coverage(ranked: Ranked) -> float:
    """The share of all items that stand in anybody's top five."""
    return len(np.unique(ranked.top)) / len(ranked.popularity)


def groups_sheet(run: Path) -> Sheet:
    """A run's table of groups."""
    ranked = rank_run(run)
    rows, records = list[list[str]](), list[dict[str, object]]()
    found = {"activity (training items)": by_activity(ranked), "popularity of the test item": by_popularity(ranked)}
    for kind, groups in found.items():
        for group in groups:
            texts = [f"{group.fewest} to {group.most}", str(group.users), f"{group.hit_ratio:.4f}", f"{group.ndcg:.4f}"]
            rows.append([kind, *texts])
            records.append({"by": kind, **vars(group)})
    text = f"{len(ranked.rank)} evaluated users at the last model; {coverage(ranked):.1%} of the "
    text += f"{len(ranked.popularity)} items stand in somebody's top {TOP}."
    return Sheet(f"For whom: {run.resolve().name}", ["by", "range", "users", "HR@5", "NDCG@5"], rows, records, [text])


def _private(states: Sequence[Path], rounds: int) -> Iterator[tuple[Ints, torch.Tensor]]:
    for directory in states:
        about, users = read_about(directory), kept_users(directory).users
        dim = json.loads((directory / "layout.json").read_text())["dim"]
        private = PrivateVectors(users, about.num_users, dim, about.seed, directory)
        yield users, private.at(np.arange(len(users)), rounds + 1, about.learning_rate).vectors


def _ranked(table: torch.Tensor, vectors: torch.Tensor, shard: Shard) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
    for start in range(0, len(shard), USERS_AT_ONCE):
        places = np.arange(start, min(start + USERS_AT_ONCE, len(shard)))
        scores = vectors[start : start + USERS_AT_ONCE] @ table.T
        target = torch.from_numpy(shard.test[places].astype(np.int64)).unsqueeze(1)
        goal = scores.gather(1, target)
        counts = shard.num_examples[places]
        owner = np.repeat(np.arange(len(places)), counts)
        items = shard.train_items[ragged_positions(shard.train_splits[places], counts)]
        scores[owner, items.astype(np.int64)] = -torch.inf
        scores[np.arange(len(places)), shard.valid[places].astype(np.int64)] = -torch.inf
        # A test item that the user had before stays a candidate.
        scores.scatter_(1, target, goal)
        rank = (scores >= goal).sum(1)
        yield rank.numpy(), scores.topk(TOP).indices.numpy(), counts, target[:, 0].numpy()


def _groups(rank: Ints, value: Ints) -> list[Group]:
    edges = np.unique(np.quantile(value, np.linspace(0, 1, GROUPS + 1)[1:-1], method="inverted_cdf"))
    inside = np.searchsorted(edges, value, side="left")
    gain = np.where(rank <= TOP, 1 / np.log2(rank + 1), 0.0)
    return [
        Group(
            int(value[chosen].min()),
            int(value[chosen].max()),
            int(chosen.sum()),
            float((rank[chosen] <= TOP).mean()),
            float(gain[chosen].mean()),
        )
        for chosen in (inside == number for number in np.unique(inside))
    ]
