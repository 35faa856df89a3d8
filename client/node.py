"""A node: the users it hosts, their learner, and the attacker that may live on it."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from flwr.app import Context, RecordDict
from torch import Tensor

from attacks import make_attack
from attacks.attack import Attack
from attacks.mod import Attacker
from attacks.view import Alteration, HonestTraining, for_users
from client import learner_class
from client.config import ClientConfig, client_config
from client.deployed.own_data import Agreed, ids_digest, keep_agreement, kept_agreement, own_ids
from client.fl_wbc import WhiteBloodCells
from client.hosting import Hosting
from client.learners.learner import Learner
from client.state.about import HostedUsers, about, keep_about, rewind_about
from client.state.attack_log import AttackLog
from client.state.private_vectors import PrivateVectors, stored_dim
from client.state.timeline import Timeline
from protocol.fingerprint import code_fingerprint
from protocol.messages import hosted_content
from protocol.own_data import own_content, read_agreed
from protocol.requests import Agreement, EvaluateRequest, GlobalModel, Hosted, LossOptions, TrainRequest
from protocol.updates import Updates
from settings.options import OptionError


class Node:
    """One Flower node and what it holds; made once a process and run."""

    def __init__(self, config: ClientConfig, agreement: Agreement | None = None) -> None:
        self._config = config
        kind = learner_class(config.run.model)
        self.hosting: Hosting = kind.hosting(config, agreement)
        self._users = HostedUsers(self.hosting.users, self.hosting.ids)
        self._private: dict[str, PrivateVectors] = {}
        self._attack: dict[str, Attack] = {}
        self._attacked: dict[str, int] = {}
        self._noted: set[str] = set()
        self.learner: Learner = kind.of_node(self.hosting, self._vectors, config, _device(config.node.device))

    def hosted(self) -> Hosted:
        """What the node says of itself. Raises ``OptionError`` where it has no such attack as it is to carry out."""
        here = self.hosting
        if here.malicious.any():
            make_attack(self._config.run.attack, self._config.run_config)
        users, malicious = torch.from_numpy(here.users), torch.from_numpy(here.malicious)
        return Hosted(users, malicious, here.num_users, here.num_items, code_fingerprint(), here.data_digest)

    def attacker(self, request: TrainRequest) -> Attacker | None:
        """The attacker that controls the node's malicious users, or ``None`` where there are none."""
        if not self.hosting.malicious.any():
            return None
        options = self._config.run
        return Attacker(
            attack=self._attack_of(request.run),
            controlled=self._malicious,
            num_users=self.hosting.num_users,
            clients_per_round=options.clients_per_round,
            seed=options.seed,
            start=options.attack_start,
            stop=options.attack_stop,
            training=self._honest_training,
            save=lambda state: self._save_attack(request, state),
            claim=options.attack_examples,
            max_examples=options.max_examples,
        )

    def private_pairs(self, request: TrainRequest) -> Alteration | None:
        """What the node's learner trains malicious users on itself, where their private vectors follow the attack.

        Their updates are replaced by the attack's all the same. ``None``: everybody's own pairs.
        """
        attacker = self.attacker(request)
        if attacker is None or not attacker.attacks_in(request.server_round):
            return None
        poisoned = attacker.attack.private_pairs()
        return None if poisoned is None else for_users(poisoned, attacker.controlled)

    def defender(self) -> WhiteBloodCells | None:
        """What the node's benign users add to their updates, or ``None`` where the run does without."""
        options = self._config.fl_wbc
        if options is None:
            return None
        return WhiteBloodCells(options, self._malicious, self._config.run.seed, self.learner.num_weights)

    @property
    def _malicious(self) -> Tensor:
        return torch.from_numpy(self.hosting.users[self.hosting.malicious])

    def follow(self, request: TrainRequest | EvaluateRequest) -> None:
        """Bring the node's state in this run to where the request expects it.

        After a resume, back to the round that the run was resumed from; a round that is asked for once more,
        back to its beginning. Raises ``AbandonedError``, ``DamagedLogError`` or ``ValueError`` where that cannot be.
        """
        run, directory = request.run, self._config.state_dir(request.run)
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        timeline, dim = Timeline(directory), stored_dim(directory)
        back_to = timeline.back_to(request.resumed_at)
        if back_to is not None:
            rewind_about(directory, back_to)
            self._forget(run, back_to)
            if dim is None:
                with timeline.writing():
                    timeline.take_up(len(request.resumed_at))
            else:
                self._vectors(run, dim).go_back(back_to, len(request.resumed_at))
            self._forget(run, back_to)
        if run not in self._noted or isinstance(request, EvaluateRequest):
            keep_about(directory, about(self._config, self.hosting.num_users, request), self._users)
            self._noted.add(run)
        if dim is None:
            if isinstance(request, TrainRequest) and self._last_attacked(run) >= request.server_round:
                self._forget(run, request.server_round - 1)
            return
        vectors = self._vectors(run, dim)
        if isinstance(request, TrainRequest) and vectors.enter(request.server_round):
            self._forget(run, request.server_round - 1)
        vectors.prune(request.keep_from)

    def _honest_training(self, model: GlobalModel, request: TrainRequest) -> HonestTraining:
        def train(users: Tensor, alter: Alteration | None = None, loss: LossOptions | None = None) -> Updates:
            asked = TrainRequest(request.server_round, users, request.run, loss or request.loss)
            return self.learner.train(model, asked, alter=alter, keep=False).updates

        return train

    def _vectors(self, run: str, dim: int) -> PrivateVectors:
        if run not in self._private:
            here, seed = self.hosting, self._config.run.seed
            self._private[run] = PrivateVectors(here.users, here.num_users, dim, seed, self._config.state_dir(run))
        return self._private[run]

    def _attack_of(self, run: str) -> Attack:
        if run not in self._attack:
            attack = make_attack(self._config.run.attack, self._config.run_config)
            log = self._attack_log(run)
            state = None if log is None else log.last()
            if state is not None:
                attack.restore(state)
            self._attack[run] = attack
        return self._attack[run]

    def _save_attack(self, request: TrainRequest, state: dict[str, float]) -> None:
        log = self._attack_log(request.run)
        if log is not None and state:
            vectors = self._private.get(request.run)
            with nullcontext() if vectors is None else vectors.writing():
                log.save(request.server_round, state, request.keep_from)
            self._attacked[request.run] = request.server_round

    def _last_attacked(self, run: str) -> int:
        """The round of the attack's newest state on disk, 0 where there is none."""
        log = self._attack_log(run)
        if run not in self._attacked and log is not None:
            self._attacked[run] = log.newest()
        return self._attacked.get(run, 0)

    def _forget(self, run: str, back_to: int) -> None:
        """Drop what this process remembers of a run, and the attack's state of later rounds."""
        self._private.pop(run, None)
        self._attack.pop(run, None)
        self._attacked.pop(run, None)
        log = self._attack_log(run)
        if log is not None:
            log.cut(back_to)

    def _attack_log(self, run: str) -> AttackLog | None:
        directory = self._config.state_dir(run)
        return None if directory is None else AttackLog(directory / "attack.jsonl")


_nodes: dict[tuple[int, int], Node] = {}
_agreements: dict[tuple[int, int], Agreed] = {}


def node_of(context: Context) -> Node:
    """The node that a message was sent to, remembered while messages of its run come."""
    key = (context.run_id, context.node_id)
    if key not in _nodes:
        for other in [known for known in _nodes if known[0] != context.run_id]:
            del _nodes[other]
            _agreements.pop(other, None)
        config = client_config(context.run_config, context.node_config)
        agreement = None
        if config.node.data:
            path = config.agreement_path(context.run_id)
            agreed = _agreements[key] if path is None else kept_agreement(path)
            agreed.require_same(config)
            agreement = agreed.agreement
        _nodes[key] = Node(config, agreement)
    return _nodes[key]


def introduce(content: RecordDict, context: Context) -> RecordDict:
    """The answer to a population query: whom the node hosts, or first which ids are in its own data."""
    config = client_config(context.run_config, context.node_config)
    if config.node.data:
        agreement, own = read_agreed(content), own_ids(config)
        if agreement is None:
            return own_content(own)
        if (len(agreement.users), len(agreement.items)) != (len(own.users), len(own.items)):
            raise OptionError("data, in this node's configuration: it has changed while its ids were being agreed on.")
        key, path = (context.run_id, context.node_id), config.agreement_path(context.run_id)
        _nodes.pop(key, None)
        agreed = Agreed(agreement, ids_digest(own))
        if path is None:
            _agreements[key] = agreed
        else:
            keep_agreement(agreed, path)
    return hosted_content(node_of(context).hosted())


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
