"""A node: the users it hosts, their learner, and the attacker that may live on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from flwr.app import Context
from torch import Tensor

from attacks import make_attack
from attacks.poisoning import Attacker
from attacks.view import Alteration, HonestTraining, row_products
from client import learner_class
from client.config import ClientConfig, client_config
from client.deployed.own_data import agreement_digest, kept_agreement
from client.fl_wbc import WhiteBloodCells
from client.hosting import Hosting, public_interactions
from client.learners.learner import Learner
from client.state.about import HostedUsers, about, keep_about
from client.state.private_vectors import PrivateVectors
from client.state.store import FILE, Store
from metrics import METRICS
from metrics.metric import Metric
from metrics.targeted import TargetRanking
from models import MODELS
from models.device import chosen, described, deterministic
from models.recommenders.recommender import make_recommender
from protocol.fingerprint import code_fingerprint
from protocol.requests import Agreement, EvaluateRequest, GlobalModel, Hosted, LossOptions, TrainRequest
from protocol.updates import Updates


class Node:
    """One Flower node: what its configuration and its data say of it. Its state is in ``store_of(run)`` alone."""

    def __init__(
        self, config: ClientConfig, store_of: Callable[[str], Store], agreement: Agreement | None = None
    ) -> None:
        self.config = config
        self._store_of = store_of
        kind = learner_class(config.run.model)
        self.hosting: Hosting = kind.hosting(config, agreement)
        self._users = HostedUsers(self.hosting.users, self.hosting.ids)
        self.device = chosen(config.device, MODELS[config.run.model].for_gpu)
        self.learner: Learner = kind.of_node(self.hosting, self.private, config, self.device)

    def hosted(self, attack_metrics: bool = False) -> Hosted:
        """What the node says of itself.

        Raises ``OptionError`` where it has no such attack as it is to carry out, or to count the metrics of.
        """
        here = self.hosting
        if here.malicious.any() or attack_metrics:
            attack = make_attack(self.config.run.attack, self.config.run_config)
            if attack.knows_public:
                public_interactions(self.config)
        users, malicious = torch.from_numpy(here.users), torch.from_numpy(here.malicious)
        return Hosted(
            users,
            malicious,
            here.num_users,
            here.num_items,
            code_fingerprint(),
            here.data_digest,
            described(self.device),
        )

    def metrics(self, request: EvaluateRequest) -> tuple[Metric, ...]:
        """What the node counts in an evaluation, with the attack's own metrics and targets where they are asked for."""
        found = METRICS[MODELS[self.config.run.model].task]
        if request.attack_metrics:
            found = (*found, *make_attack(self.config.run.attack, self.config.run_config).metrics())
        return (*found, TargetRanking(request.targets)) if request.targets else found

    @contextmanager
    def serving(self, request: TrainRequest | EvaluateRequest) -> Iterator[None]:
        """One request as one transaction of the node's state, which is first brought to where the request expects it.

        After a resume that is the round that the run was resumed from; for a round that is asked for once more, its
        beginning. Raises ``AbandonedError``, ``OptionError`` or ``ValueError`` where that cannot be, and ``OSError``
        where nothing can be kept; after any error the state is as it was.
        """
        store, training = self._store_of(request.run), isinstance(request, TrainRequest)
        store.require_begun()
        with store.begin():
            if self.config.state_dir(request.run) is None:
                # What is kept in memory ends with its process; only a resume needs what is gone (see ``introduce``).
                store.begin_run(request.resumed_at)
            store.take_up(request.resumed_at)
            if training:
                store.begin_round(request.server_round)
            store.forget(request.keep_from)
            note = about(self.config, self.hosting.num_users, request)
            keep_about(store, note, self._users, evaluated=not training)
            with deterministic(self.device, self.config.run.deterministic):
                yield

    def private(self, run: str, dim: int) -> PrivateVectors:
        """The users' private vectors in a run."""
        return PrivateVectors(self._store_of(run), self.hosting.num_users, dim, self.config.run.seed)

    def attacker(self, request: TrainRequest) -> Attacker | None:
        """The attacker that controls the node's malicious users, or ``None`` where there are none.

        Its attack goes on from the state that the store has; called inside ``serving``.
        """
        if not self.hosting.malicious.any():
            return None
        options, store = self.config.run, self._store_of(request.run)
        attack = make_attack(options.attack, self.config.run_config)
        state = store.attack()
        if state is not None:
            attack.recall(store.attack_memory())
            attack.restore(state)
        return Attacker(
            attack=attack,
            controlled=self._malicious,
            num_users=self.hosting.num_users,
            clients_per_round=options.clients_per_round,
            seed=options.seed,
            start=options.attack_start,
            stop=options.attack_stop,
            training=self._honest_training,
            save=store.keep_attack,
            claim=options.attack_examples,
            max_examples=options.max_examples,
            scores=make_recommender(options).scores if MODELS[options.model].task == "recommendation" else row_products,
            public=public_interactions(self.config) if attack.knows_public else None,
        )

    def defender(self) -> WhiteBloodCells | None:
        """What the node's benign users add to their updates, or ``None`` where the run does without."""
        options = self.config.fl_wbc
        if options is None:
            return None
        return WhiteBloodCells(options, self._malicious, self.config.run.seed, self.learner.num_weights)

    @property
    def _malicious(self) -> Tensor:
        return torch.from_numpy(self.hosting.users[self.hosting.malicious])

    def _honest_training(self, model: GlobalModel, request: TrainRequest) -> HonestTraining:
        def train(users: Tensor, alter: Alteration | None = None, loss: LossOptions | None = None) -> Updates:
            asked = TrainRequest(request.server_round, users, request.run, loss or request.loss)
            return self.learner.train(model, asked, alter=alter, keep=False).updates

        return train


_stores: dict[tuple[int, int, str], Store] = {}
"""By Flower's run, node, and the run's name: what is kept in memory must be found again."""

_nodes: dict[tuple[int, int], tuple[str | None, Node]] = {}
"""By Flower's run and node, with what was agreed on its own data (see ``agreement_digest``)."""


def store_of(context: Context, config: ClientConfig, run: str) -> Store:
    """Where a node keeps its state in a run. Raises ``OptionError`` for a name that could lead out of the folder."""
    directory = config.state_dir(run)
    _forget_other_runs(context.run_id)
    key = (context.run_id, context.node_id, run)
    if key not in _stores:
        _stores[key] = Store(None if directory is None else directory / FILE)
    return _stores[key]


def node_of(context: Context, run: str) -> Node:
    """The node that a message was sent to, remembered while messages of its run come.

    A node with data of its own is made anew where something else was agreed on them. Raises ``OptionError`` where
    nothing was agreed, or the data has changed since.
    """
    _forget_other_runs(context.run_id)
    key = (context.run_id, context.node_id)
    known = _nodes.get(key)
    # Both configurations stay the same during a run.
    config = client_config(context.run_config, context.node_config) if known is None else known[1].config
    digest, agreed = None, None
    if config.node.data:
        store = store_of(context, config, run)
        store.require_begun()
        with store.begin():
            digest = agreement_digest(store)
            if known is None or digest != known[0]:
                agreed = kept_agreement(store)
                agreed.require_same(config)
    if known is not None and known[0] == digest:
        return known[1]
    node = Node(config, lambda name: store_of(context, config, name), agreed.agreement if agreed else None)
    _nodes[key] = digest, node
    return node


def _forget_other_runs(run_id: int) -> None:
    for other in [known for known in _nodes if known[0] != run_id]:
        del _nodes[other]
    for kept in [known for known in _stores if known[0] != run_id]:
        del _stores[kept]
