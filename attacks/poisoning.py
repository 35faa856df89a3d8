"""What an attacker's node does beside honest training: its malicious users' updates are replaced by poisoned ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import draws
from attacks.attack import Attack, is_attacked
from attacks.claimed_examples import Claim, claiming
from attacks.view import Alteration, AttackerView, HonestTraining, ModelScores, for_users, row_products
from draws import Stream
from protocol.requests import GlobalModel, LossOptions, TrainReply, TrainRequest
from protocol.updates import Updates, gather


@dataclass(frozen=True)
class Attacker:
    """What an attacker's node brings along.

    ``controlled`` (m,) int64: its malicious users, in ascending order; it attacks in rounds ``start`` to
    ``stop``, 0 for no end. ``training``: honest training at a model; ``save``: keep the attack's state and memory;
    ``claim``: the number of examples that its users say they have, ``max_examples`` being the most that the server
    admits; ``scores``: how the model scores items; ``public``: see ``AttackerView``.
    """

    attack: Attack
    controlled: Tensor
    num_users: int
    clients_per_round: int
    seed: int
    start: int
    stop: int
    training: Callable[[GlobalModel, TrainRequest], HonestTraining]
    save: Callable[[dict[str, float], bytes], None]
    claim: Claim = "honest"
    max_examples: int = 1_000_000
    scores: ModelScores = row_products
    public: tuple[Tensor, Tensor] | None = None

    def attacks_in(self, server_round: int) -> bool:
        """Whether it poisons in this round."""
        return is_attacked(server_round, self.start, self.stop)

    def keep(self) -> dict[str, float]:
        """Keep what the attack must remember of this round; returns what of it the log shows."""
        state = self.attack.state()
        self.save(state, self.attack.memory())
        return state


def poisoned_updates(attacker: Attacker, model: GlobalModel, request: TrainRequest) -> Updates | None:
    """What the malicious users of this round upload, ``None`` where none is asked for or the attack rests.

    To be asked for before the node steps its users' private vectors: the attack trains with them as they are in this
    round. Raises ``ValueError`` where the attack answers for other users than those selected.
    """
    if not attacker.attacks_in(request.server_round):
        return None
    selected = request.users[torch.isin(request.users, attacker.controlled)].sort().values
    if not len(selected):
        return None
    view = view_of(attacker, model, request, selected)
    poisoned = attacker.attack.poison(view)
    if not torch.equal(poisoned.users, selected):
        raise ValueError(
            f"{type(attacker.attack).__name__} answered for the users {poisoned.users[:10].tolist()}. "
            f"Expected one update for each of {selected[:10].tolist()}, in this order."
        )
    return claiming(poisoned, attacker.claim, view, attacker.max_examples)


def private_pairs(attacker: Attacker, request: TrainRequest) -> Alteration | None:
    """What the node's learner trains malicious users on itself, where their private vectors follow the attack.

    Their updates are replaced by the attack's all the same. ``None``: everybody's own pairs.
    """
    if not attacker.attacks_in(request.server_round):
        return None
    poisoned = attacker.attack.private_pairs()
    return None if poisoned is None else for_users(poisoned, attacker.controlled)


def with_poison(reply: TrainReply, poisoned: Updates) -> TrainReply:
    """The honest reply with the updates of the malicious users given by ``poisoned``; the losses stay honest."""
    malicious = torch.isin(reply.updates.users, poisoned.users)
    return TrainReply(replace_users(reply.updates, malicious, poisoned), reply.losses)


def view_of(attacker: Attacker, model: GlobalModel, request: TrainRequest, selected: Tensor) -> AttackerView:
    """One round as this attacker sees it."""
    train = _of_controlled(attacker.training(model, request), attacker.controlled)
    # The lowest controlled user tells several attackers' numbers apart.
    lowest = int(attacker.controlled[0])
    return AttackerView(
        request=replace(request, users=selected),
        model=model,
        selected=selected,
        honest=train(selected),
        controlled=attacker.controlled,
        num_users=attacker.num_users,
        clients_per_round=attacker.clients_per_round,
        generator=draws.generator(attacker.seed, Stream.ATTACK, request.server_round, lowest),
        train=train,
        scores=attacker.scores,
        public=attacker.public if attacker.attack.knows_public else None,
    )


def _of_controlled(training: HonestTraining, controlled: Tensor) -> HonestTraining:
    """The same training, refused for users that are not the attacker's: its node may host benign ones too."""

    def train(users: Tensor, alter: Alteration | None = None, loss: LossOptions | None = None) -> Updates:
        others = users[~torch.isin(users, controlled)]
        if len(others):
            raise ValueError(f"The attacker does not control the users {others[:10].tolist()}.")
        return training(users, alter=alter, loss=loss)

    return train


def replace_users(updates: Updates, replaced: Tensor, others: Updates) -> Updates:
    """The updates with those of the ``replaced`` (n,) bool users given by ``others``, in the order of ``updates``."""
    sorted_users, places = others.users.sort()
    at = torch.searchsorted(sorted_users, updates.users).clamp(max=len(others) - 1)
    kept = torch.arange(len(updates))
    return gather([updates, others], torch.where(replaced, len(updates) + places[at], kept))
