"""Recommend on the node: ``python -m client.recommend --state-dir … --model …/model.safetensors --user ID --top 10``.

Needs no server: items are scored with the downloaded model and the user's private vector, which never left the node;
items in the user's history are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from client.state.about import About, kept_states, kept_users, opened, read_about, states_of
from client.state.private_vectors import PrivateVectors
from client.state.store import Store
from data import load
from data.interactions import Interactions
from models import MODELS
from models.recommenders.recommender import Recommender
from settings.options import OptionError, require
from settings.plugins import load_class


@dataclass(frozen=True)
class Recommendation:
    """One item for one user: its original id, its title ("" where the data set has none), and its score."""

    item: str
    title: str
    score: float


@dataclass(frozen=True)
class ItemTable:
    """A trained model as a node downloads it.

    ``rows`` (num_items, d) and ``shared`` (p,), each row's original item id, and the name under which nodes keep state
    of its ``run``.
    """

    rows: Tensor
    shared: Tensor
    item_ids: tuple[str, ...]
    run: str


def recommend(state_dir: Path, model: Path, user: str, top: int = 10, data_dir: str = "") -> list[Recommendation]:
    """The ``top`` items for a user of this node, the best first.

    ``state_dir``: the node's, or a folder in it; ``user``: the original id; ``data_dir``: where the data
    set is, if it was moved since training. Raises ``OptionError`` where the node does not know the user, has
    no state of the model's run, or one of the files cannot be used.
    """
    require(top >= 1, "top", top, "at least 1")
    table = read_model(model)
    for directory in _states(state_dir, table.run):
        store = opened(directory)
        about = read_about(store)
        if about is None:
            continue
        recommender = _recommender(about.model)
        hosted = kept_users(store)
        place = hosted.ids.find(user)
        if place >= 0:
            vector = _vector(store, about, int(hosted.users[place]), table.rows.shape[1])
            interactions = load(about.data or about.dataset, data_dir or about.data_dir or None, about.columns)
            scores = recommender.scores(table.rows, table.shared, vector.unsqueeze(0))[0]
            return _best(table, scores, interactions, user, top)
    raise OptionError(f"user = {user!r}: this node does not host that user in the run of {model}.")


def read_model(path: Path) -> ItemTable:
    """``model.safetensors`` as the recorder writes it. Raises ``OptionError``."""
    try:
        with safe_open(path, "pt") as file:
            rows, shared, metadata = file.get_tensor("items"), file.get_tensor("shared"), file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise OptionError(f"model = {str(path)!r}: cannot be read ({error}).") from error
    ids = json.loads(metadata.get("item_ids", "[]"))
    if len(ids) != len(rows):
        raise OptionError(f"model = {str(path)!r}: it names {len(ids)} items and has {len(rows)}.")
    return ItemTable(rows, shared, tuple(ids), metadata.get("run", ""))


def _recommender(model: str) -> Recommender:
    """What scored the items of the run's ``model``; raises ``OptionError`` where a user has no vector to score with."""
    places = {name: card.place for name, card in MODELS.items() if card.task == "recommendation"}
    kinds = {name: load_class("model", place, Recommender) for name, place in places.items()}  # type: ignore[type-abstract]
    able = [name for name, kind in kinds.items() if kind.private_vectors]
    if model not in able:
        raise OptionError(f"A node can recommend by itself with the models {', '.join(able)}, not with {model!r}.")
    return kinds[model]()


def _states(state_dir: Path, run: str) -> list[Path]:
    """The folders in which nodes kept state of a run."""
    found = kept_states(state_dir)
    if not found:
        raise OptionError(f"state-dir = {str(state_dir)!r}: no node has kept private vectors there.")
    require(bool(run), "model", "model.safetensors", "one that names its run, as this version of the program writes it")
    # Named from the root: the folder may be the run's own.
    of_run = states_of(run, [path.absolute() for path in found])
    require(bool(of_run), "state-dir", str(state_dir), f"state of the model's run, {run!r}")
    return of_run


def _vector(store: Store, about: About, user: int, dim: int) -> Tensor:
    """The user's private vector (d,) as it stands after the latest round that the node knows of."""
    with store.begin():
        kept = store.dim()
        if kept not in (dim, None):
            raise OptionError(f"The node's vectors have {kept} numbers, the model's have {dim}.")
        private = PrivateVectors(store, about.num_users, dim, about.seed)
        users = np.array([user])
        done = max(about.server_round, int(private.at(users, 1, about.learning_rate).last[0]))
        return private.at(users, done + 1, about.learning_rate).vectors[0]


def _best(table: ItemTable, scores: Tensor, interactions: Interactions, user: str, top: int) -> list[Recommendation]:
    own = interactions.user_ids.find(user)
    seen = interactions.items[interactions.splits[own] : interactions.splits[own + 1]]
    known = set(interactions.item_ids[np.unique(seen)])
    left_out = np.array([item in known for item in table.item_ids])
    scores[torch.from_numpy(left_out)] = -torch.inf
    ranking = scores.argsort(descending=True, stable=True)[: min(top, int((~left_out).sum()))]
    titles = _titles(interactions)
    return [
        Recommendation(table.item_ids[index], titles.get(table.item_ids[index], ""), float(scores[index]))
        for index in ranking.tolist()
    ]


def _titles(interactions: Interactions) -> dict[str, str]:
    if interactions.titles is None:
        return {}
    return dict(zip(interactions.item_ids.tolist(), interactions.titles.tolist(), strict=True))


def main(arguments: list[str] | None = None) -> int:
    """``python -m client.recommend``."""
    parser = argparse.ArgumentParser(
        prog="robust-fedrec recommend", description="Recommend to a user of this node, without a server."
    )
    parser.add_argument("--state-dir", type=Path, required=True, help="the node's state-dir, or a run's folder in it")
    parser.add_argument("--model", type=Path, required=True, help="the run's model.safetensors")
    parser.add_argument("--user", required=True, help="the user's id, as the data set has it")
    parser.add_argument("--top", type=int, default=10, help="how many items")
    parser.add_argument("--data-dir", default="", help="where the data set is, if it was moved since")
    chosen = parser.parse_args(arguments)
    try:
        found = recommend(chosen.state_dir, chosen.model, chosen.user, chosen.top, chosen.data_dir)
    except OptionError as error:
        print(error, file=sys.stderr)
        return 1
    for place, one in enumerate(found, 1):
        print(f"{place:3}  {one.score:9.4f}  {one.item:>8}  {one.title}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
