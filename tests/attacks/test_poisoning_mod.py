"""The seam of every attack: who is replaced, who is not, when, and what the attacker gets to see."""

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict

from attacks import ATTACKS, attack_class, make_attack
from attacks.attack import Attack
from attacks.view import AttackerView
from client.app import app
from client.config import client_config
from client.node import node_of, store_of
from data.partition import malicious_users
from protocol.messages import model_record, read_own_reply, request_content
from protocol.requests import GlobalModel, LossOptions, TrainReply, TrainRequest
from protocol.updates import Updates
from server.simulation import default_options
from settings.options import OptionError, Scalar

FRACTION = 0.02
RUN = "a-run"
MALICIOUS = malicious_users(1000, FRACTION, 0).tolist()
HONEST = [user for user in range(0, 1000, 41) if user not in MALICIOUS]
COHORT = [HONEST[3], MALICIOUS[7], MALICIOUS[1], *HONEST[5:9], MALICIOUS[12], HONEST[0]]


class Federation:
    """The real app on nodes of its own; each object is another process as far as the app can tell."""

    count = 0

    def __init__(self, role: str = "", **changed: Scalar) -> None:
        Federation.count += 1
        self._role = role
        options: dict[str, Scalar] = {"malicious-fraction": FRACTION, "embedding-dim": 8, "dropout": 0.1}
        options |= {name.replace("_", "-"): value for name, value in changed.items()}
        self._run_config = {**default_options(), **options}
        self._run_id = 10_000 + Federation.count
        self.model = GlobalModel(torch.randn(800, 8, generator=torch.Generator().manual_seed(0)) * 0.2, torch.empty(0))

    def context(self, partition: int, partitions: int) -> Context:
        node = {"partition-id": partition, "num-partitions": partitions, "state-dir": "memory", "role": self._role}
        return Context(self._run_id, partition + 1, node, RecordDict(), dict(self._run_config))

    def answer(self, users: list[int], server_round: int = 1, partition: int = 0, partitions: int = 1) -> Message:
        request = TrainRequest(server_round, torch.tensor(users), RUN, LossOptions(dropout=0.1), targets=(5, 700))
        content = request_content(model_record(self.model), request)
        message = Message(content, partition + 1, "train", group_id=str(server_round))
        return app(message, self.context(partition, partitions))

    def attack_state(self) -> dict[str, float] | None:
        """What the node keeps of its attack."""
        context = self.context(0, 1)
        store = store_of(context, client_config(context.run_config, context.node_config), RUN)
        with store.begin():
            return store.attack()

    def train(self, users: list[int], server_round: int = 1, partition: int = 0, partitions: int = 1) -> TrainReply:
        return read_own_reply(self.answer(users, server_round, partition, partitions).content)


def only(updates: Updates, users: list[int]) -> Updates:
    return updates.select(torch.isin(updates.users, torch.tensor(users)))


def assert_same(first: Updates, second: Updates) -> None:
    """Equal to the bit, in the same order."""
    for field in dataclasses.fields(Updates):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


class Spy(Attack):
    """Sends the honest updates, and keeps what it saw."""

    views: list[AttackerView] = []  # noqa: RUF012

    def poison(self, view: AttackerView) -> Updates:
        Spy.views.append(view)
        # What it is told are honest updates: it can train with the private vectors of this round's start.
        assert_same(view.train(view.selected), view.honest)
        return view.honest


class Impostor(Attack):
    """Answers in the name of fewer users than were selected."""

    def poison(self, view: AttackerView) -> Updates:
        return view.honest.select(torch.arange(len(view.selected) - 1))


HONEST_AT_FIRST = {"pieck-ipe", "pieck-uea", "spattack-o"}
"""Attacks that need a second view of the table, or whose poison is made at the server of a simulation."""


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_honest_users_of_a_mixed_node_are_untouched_to_the_bit(attack: str) -> None:
    honest, attacked = Federation().train(COHORT), Federation(attack=attack).train(COHORT)
    assert_same(only(honest.updates, HONEST), only(attacked.updates, HONEST))
    assert torch.equal(honest.updates.users, attacked.updates.users)
    assert torch.equal(honest.updates.num_examples, attacked.updates.num_examples)
    assert torch.equal(honest.losses, attacked.losses)
    ours, theirs = only(honest.updates, MALICIOUS), only(attacked.updates, MALICIOUS)
    assert len(theirs) == 3
    for k in range(3):
        first, second = ours.select(torch.tensor([k])), theirs.select(torch.tensor([k]))
        same = first.rows.shape == second.rows.shape and torch.equal(first.rows, second.rows)
        assert same == (attack in HONEST_AT_FIRST)


def test_an_attacker_sees_its_own_users_alone() -> None:
    Spy.views.clear()
    honest = Federation().train(COHORT).updates
    answered = Federation(attack=f"{__name__}:Spy").train(COHORT).updates
    (view,) = Spy.views
    chosen = sorted(set(COHORT) & set(MALICIOUS))
    assert view.controlled.tolist() == MALICIOUS
    assert view.selected.tolist() == chosen
    assert view.request.users.tolist() == chosen
    assert_same(view.honest, only(honest, MALICIOUS))
    assert_same(answered, honest)
    for user in (HONEST[0], HONEST[3]):
        with pytest.raises(ValueError, match=f"does not control the users \\[{user}\\]"):
            view.train(torch.tensor([*chosen, user]))


def test_the_attackers_seed_draws_the_malicious_users_and_nothing_else() -> None:
    """Who is malicious, and thereby who is never evaluated; everybody's honest updates are those of the run's seed."""
    usual, other = Federation(attack="lie"), Federation(attack="lie", attacker_seed=7)
    found = [node_of(federation.context(0, 1), RUN).hosting for federation in (usual, other)]
    assert found[0].users[found[0].malicious].tolist() == MALICIOUS
    theirs = malicious_users(1000, FRACTION, 7).tolist()
    assert found[1].users[found[1].malicious].tolist() == theirs
    assert not found[1].evaluated[theirs].any()
    honest = [user for user in COHORT if user not in {*MALICIOUS, *theirs}]
    updates = [federation.train(COHORT).updates for federation in (usual, other)]
    assert_same(only(updates[0], honest), only(updates[1], honest))
    same = Federation(attack="lie", attacker_seed=0).train(COHORT).updates
    assert_same(same, updates[0])


def test_nothing_in_the_view_leads_to_the_server_or_to_others() -> None:
    """Its fields are these. Adding one means to widen the threat model: then say so here."""
    assert [field.name for field in dataclasses.fields(AttackerView)] == [
        *("request", "model", "selected", "honest", "controlled", "num_users", "clients_per_round"),
        *("generator", "train", "scores", "public"),
    ]


@pytest.mark.parametrize("attack", ["cluster", "cluster+cl", "label-flip"])
def test_private_vectors_of_malicious_users_are_updated_honestly(attack: str) -> None:
    """After two attacked rounds the third, in which nobody attacks, is the same as if nobody ever had."""
    # One after another: a node forgets what it keeps in memory when another run comes.
    honest, attacked = (three_rounds(Federation(**options)) for options in ({}, {"attack": attack, "attack_stop": 2}))
    assert_same(honest[2], attacked[2])


def three_rounds(federation: Federation) -> list[Updates]:
    """The cohort's updates of rounds 1 to 3."""
    return [federation.train(COHORT, now).updates for now in (1, 2, 3)]


@pytest.mark.parametrize("attack", ["fed-attack", "label-flip"])
def test_private_vectors_follow_the_poisoned_pairs_in_the_programs_reading(attack: str) -> None:
    """Its malicious users are like those of a learner that trains on the poisoned pairs alone, and keeps each step.

    In the third round nobody attacks: what happened to private vectors shows in the malicious users' updates alone.
    """
    honest = three_rounds(Federation())
    federation = Federation(attack=attack, attack_stop=2, **{f"{attack}-reading": "program"})
    read = three_rounds(federation)
    poisoned = make_attack(attack, {**default_options(), f"{attack}-reading": "program"}).private_pairs()
    assert poisoned is not None
    by_hand = node_of(Federation().context(0, 1), RUN)
    chosen = torch.tensor(sorted(set(COHORT) & set(MALICIOUS)))
    for now, altered in ((1, poisoned), (2, poisoned), (3, None)):
        request = TrainRequest(now, chosen, RUN, LossOptions(dropout=0.1))
        with by_hand.serving(request):
            reply = by_hand.learner.train(federation.model, request, alter=altered)
        assert_same(reply.updates, only(read[now - 1], MALICIOUS))
        assert_same(only(honest[now - 1], HONEST), only(read[now - 1], HONEST))
    assert not torch.equal(only(honest[2], MALICIOUS).rows, only(read[2], MALICIOUS).rows)


def test_it_attacks_from_the_first_to_the_last_round_asked_for() -> None:
    honest, attacked = Federation(), Federation(attack="fang", attack_start=2, attack_stop=3)
    differs = []
    for now in range(1, 6):
        ours, theirs = honest.train(COHORT, now).updates, attacked.train(COHORT, now).updates
        differs.append(ours.rows.shape != theirs.rows.shape)
    assert differs == [False, True, True, False, False]


def test_a_stop_of_zero_means_no_end() -> None:
    attacked = Federation(attack="lie", lie_z=1.0, attack_start=2)
    assert len(attacked.train(COHORT, 1).updates.items) != len(attacked.train(COHORT, 9_999).updates.items)


def test_attackers_on_two_nodes_draw_different_numbers() -> None:
    """As a deployment has them."""
    Spy.views.clear()
    spied = Federation("attacker", attack=f"{__name__}:Spy", malicious_fraction=0.5)
    for partition in (0, 1):
        hosting = node_of(spied.context(partition, 2), RUN).hosting
        assert hosting.malicious.all()
        spied.train(hosting.users[:2].tolist(), 1, partition, 2)
    first, second = (view.generator.random(4).tolist() for view in Spy.views)
    assert first != second


def test_a_cohort_without_malicious_users_does_not_move_the_attack() -> None:
    federation = Federation(attack="cluster")
    federation.train(HONEST[:4], 1)
    assert federation.attack_state() is None
    federation.train(COHORT, 2)
    kept = federation.attack_state()
    assert kept is not None
    assert kept["steps"] == 1


def test_the_attacks_state_travels_beside_the_updates_for_the_log() -> None:
    content = Federation(attack="cluster").answer(COHORT).content
    assert isinstance(content["updates"], ArrayRecord)
    state = content["attack"]
    assert isinstance(state, Mapping)
    assert state["clusters"] == 2


def test_an_attack_that_answers_for_others_is_told_so() -> None:
    with pytest.raises(ValueError, match="Impostor answered for the users"):
        Federation(attack=f"{__name__}:Impostor").train(COHORT)


def test_every_attack_reads_its_options_under_its_prefix() -> None:
    written = default_options()
    for name in ATTACKS:
        kind = attack_class(name)
        assert make_attack(name, written).options == kind.Options()
    assert make_attack("lie", {"lie-z": 2}).options.z == 2.0
    assert make_attack("fed-attack", {"fed-attack-positives": "own"}).options.positives == "own"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clutser", "expected one of none, label-flip, .*, fang, ipm, sign-flip, .*, cluster, cluster"),
        ("no_such_module:Mine", "No module named 'no_such_module'.*plugin-dir"),
        ("attacks.updates.lie:Truth", "has no attribute 'Truth'"),
        ("attacks.updates.lie:largest_z", "Expected a subclass"),
    ],
)
def test_an_attack_that_cannot_be_found_is_explained(name: str, expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        attack_class(name)
