"""Wait for the nodes that a run needs, and ask each which users it hosts."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from logging import ERROR, INFO, WARNING

import numpy as np
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.serverapp import Grid
from numpy.typing import NDArray

from protocol.admission import UnreadableError
from protocol.fingerprint import code_fingerprint
from protocol.foreign_text import shown
from protocol.messages import query_content, read_hosted
from protocol.own_data import agreed_content, has_own, read_own
from protocol.requests import Agreement, Hosted, PopulationQuery
from server.exchange import Pending
from server.grids.direct_grid import DirectGrid
from server.population.catalogue import Catalogue, UnknownIdsError
from server.population.population import Population, PopulationError, digest_of, population_of

LOOK = 0.2
"""Seconds between two looks for nodes that have come."""

ALONE = 10.0
"""Seconds for which a run waits for another node where all that have come were refused."""

LATE = 30.0
"""Seconds for which a run that could begin waits for the answers of other nodes that are there."""

NODES_STATE = "The node's state"
"""How the error begins of a node whose private state of a run is gone, or cannot go back so far."""

ANOTHER_PROGRAM = (
    "it runs another version of this program: restart it, and start runs from outside the project's folder"
)


@dataclass
class Arrivals:
    """What the nodes have said so far; ``catalogue`` looks up the ids of those with data of their own.

    ``gone``: who was given up before it answered; ``expected``: the ``node_digests`` of a resumed run's population,
    whose nodes are waited for, and no others taken.
    """

    catalogue: Catalogue | None = None
    expected: Counter[int] | None = None
    answers: dict[int, Hosted] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    agreed: dict[int, Agreement] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    query: PopulationQuery = field(default_factory=PopulationQuery)
    _claimed: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _digests: Counter[int] = field(default_factory=Counter)

    @property
    def num_hosted(self) -> int:
        """How many users there are so far."""
        return sum(len(answer.users) for answer in self.answers.values())

    def note(self, reply: Message) -> Message | None:
        """Take one reply; the message that must follow it, where one must."""
        node = reply.metadata.src_node_id
        try:
            return self._accept(node, reply)
        except (UnreadableError, UnknownIdsError) as error:
            self.refused[node] = shown(str(error))
        except Exception as error:
            # A hole in the checks: worth a line of its own, not worth the run.
            log(ERROR, "Node %d's answer broke its reader: %r", node, error)
            self.refused[node] = f"unreadable: {type(error).__name__}"
        log(WARNING, "Node %d is refused: %s.", node, self.refused[node].rstrip("."))
        return None

    def forget_gone(self) -> set[int]:
        """Who was given up since the last call; from now on they have never been asked."""
        gone, self.gone = self.gone, set()
        for node in gone:
            self.refused.pop(node, None)
            self.agreed.pop(node, None)
        return gone

    def enough(self, min_nodes: int) -> bool:
        """Whether the run can begin."""
        if self.expected is not None:
            return self._digests == self.expected
        if min_nodes:
            return len(self.answers) >= min_nodes
        return bool(self.answers) and self.num_hosted >= max(answer.num_users for answer in self.answers.values())

    def _accept(self, node: int, reply: Message) -> Message | None:
        if reply.has_error():
            if reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                self.gone.add(node)
            raise UnreadableError(reply.error.reason or f"error {reply.error.code}")
        if has_own(reply.content):
            if self.catalogue is None or node in self.agreed:
                raise UnreadableError("it has data of its own, which is not expected of it here")
            self.agreed[node] = self.catalogue.agree(read_own(reply.content, *self.catalogue.most_bytes))
            content = query_content(self.query)
            content.update(agreed_content(self.agreed[node]))
            return Message(content, node, "query", group_id="0")
        hosted = read_hosted(reply.content)
        if hosted.code != code_fingerprint():
            raise UnreadableError(ANOTHER_PROGRAM)
        self._check_agreed(node, hosted)
        self._check_sizes(hosted)
        self._check_data(node, hosted)
        self._check_claims(hosted)
        self._check_expected(hosted)
        self.answers[node] = hosted
        if len(hosted.users):
            self._digests[digest_of(hosted.users.numpy())] += 1
        self._claimed = np.concatenate([self._claimed, hosted.users.numpy()])
        return None

    def _check_agreed(self, node: int, hosted: Hosted) -> None:
        agreed = self.agreed.get(node)
        if agreed is not None and not np.array_equal(agreed.users.sort().values, hosted.users):
            raise UnreadableError("it claims other users than those of its data")

    def _check_expected(self, hosted: Hosted) -> None:
        if self.expected is None or not len(hosted.users):
            return
        found = digest_of(hosted.users.numpy())
        if self._digests[found] >= self.expected[found]:
            raise UnreadableError("no node hosted the same users when the run began that is resumed")

    def _check_sizes(self, hosted: Hosted) -> None:
        if self.catalogue is None:
            return
        users, items = len(self.catalogue.user_ids), len(self.catalogue.item_ids)
        if (hosted.num_users, hosted.num_items) != (users, items):
            raise UnreadableError(
                f"its data set has {hosted.num_users} users and {hosted.num_items} items, the run's {users} and {items}"
            )

    def _check_data(self, node: int, hosted: Hosted) -> None:
        """Refuse another copy of the run's data set; a node with a file of its own agreed on its ids before."""
        known = None if self.catalogue is None else self.catalogue.digest_of
        if known is not None and node not in self.agreed and hosted.data_digest != known(hosted.users.numpy()):
            raise UnreadableError(
                "its data set is another one than the server's, with the same sizes: copy the server's to the node"
            )

    def _check_claims(self, hosted: Hosted) -> None:
        """Who came first keeps a user: a second claim must not disturb the run."""
        users = hosted.users.numpy()
        twice = users[np.isin(users, self._claimed)]
        if len(twice):
            host = next(node for node, other in self.answers.items() if bool((other.users == int(twice[0])).any()))
            raise UnreadableError(
                f"it claims user {twice[0]}, whom node {host} hosts already ({len(twice)} users in all); give each "
                "node a part of its own (partition-id, or data)"
            )


def discover(
    grid: Grid,
    min_nodes: int,
    timeout: float,
    catalogue: Catalogue | None = None,
    expected: Counter[int] | None = None,
    query: PopulationQuery | None = None,
) -> Population:
    """The population that the nodes host.

    Waits until they host every user of the data set, or, where ``min_nodes`` is given, until so many have
    answered, or, where ``expected`` has the ``node_digests`` of a resumed run's population, until its nodes have;
    ``timeout`` in seconds. ``query`` names the private state that the nodes begin, or go on with. A node that cannot
    take part is refused with a warning that says why. Raises ``PopulationError`` where too few are left, and at once
    where the private state of a node is gone with which the run shall go on.
    """
    query = query or PopulationQuery()
    arrivals, pending, asked = Arrivals(catalogue, expected, query=query), Pending(grid), set[int]()
    started, told, complete = time.monotonic(), 0, 0.0
    while True:
        new = [node for node in grid.get_node_ids() if node not in asked]
        pending.send([Message(query_content(query), node, "query", group_id="0") for node in new])
        asked.update(new)
        _listen(arrivals, pending, min_nodes)
        if not isinstance(grid, DirectGrid):
            # The SuperLink believes in a node that was killed until its lease ends: it is asked again when it is back.
            asked -= arrivals.forget_gone()
        waited = time.monotonic() - started
        lost = [node for node, why in arrivals.refused.items() if query.resumed_at and NODES_STATE in why]
        if lost:
            raise PopulationError(
                f"This run cannot be resumed as it was: node {min(lost)}: {arrivals.refused[min(lost)]} With "
                "resume-without-state=true such nodes start anew, and the run becomes another one."
            )
        if arrivals.enough(min_nodes):
            complete = complete or waited
            if not len(pending) or waited > complete + LATE:
                _say_devices(arrivals.answers)
                return population_of(arrivals.answers)
            continue
        if arrivals.refused and not arrivals.answers and not len(pending):
            # A resumed run waits for its own nodes, whoever comes before them.
            if isinstance(grid, DirectGrid) or (expected is None and waited > ALONE):
                raise PopulationError("; ".join(_refusals(arrivals.refused)))
        elif len(arrivals.answers) > told:
            told = len(arrivals.answers)
            log(INFO, "%d nodes with %d users have answered; waiting for more.", told, arrivals.num_hosted)
        if waited > timeout or (isinstance(grid, DirectGrid) and not len(pending)):
            raise PopulationError(_missing(arrivals, min_nodes, waited))


def _listen(arrivals: Arrivals, pending: Pending, min_nodes: int) -> None:
    """Take replies, and answer those that ask for it, until it is time to look for more nodes."""
    until = time.monotonic() + LOOK
    while True:
        follow_ups = [message for message in map(arrivals.note, pending.collect()) if message is not None]
        pending.send(follow_ups)
        if time.monotonic() > until or (arrivals.enough(min_nodes) and not len(pending)):
            return
        pending.rest()


def _say_devices(answers: dict[int, Hosted]) -> None:
    """Log which devices the nodes compute on, where one has another than its CPU."""
    nodes_on = Counter(shown(hosted.device) for hosted in answers.values())
    if set(nodes_on) - {"cpu"}:
        log(
            INFO, "Nodes by device: %s.", ", ".join(f"{count} on {device}" for device, count in nodes_on.most_common(5))
        )


def _refusals(refused: dict[int, str]) -> list[str]:
    return [f"node {node}: {why}" for node, why in sorted(refused.items())[:3]]


def _missing(arrivals: Arrivals, min_nodes: int, waited: float) -> str:
    wanted = f"{min_nodes} nodes" if min_nodes else "nodes that host every user of the data set (or set min-nodes)"
    if arrivals.expected is not None:
        wanted = f"the {arrivals.expected.total()} nodes that it had before it is resumed"
    text = (
        f"After {waited:.1f} s {len(arrivals.answers)} nodes with {arrivals.num_hosted} users have answered; "
        f"the run needs {wanted}."
    )
    if arrivals.refused:
        text += " Refused: " + "; ".join(_refusals(arrivals.refused)) + "."
    return text
