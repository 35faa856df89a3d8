"""Wait for the nodes that a run needs, and ask each which users it hosts."""

from __future__ import annotations

import time

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from protocol.admission import UnreadableError
from protocol.fingerprint import code_fingerprint
from protocol.messages import read_hosted
from protocol.requests import Hosted
from server.exchange import exchange
from strategies.population import Population, PopulationError, population_of

POLL = 0.2


def discover(grid: Grid, min_nodes: int, timeout: float) -> Population:
    """The population that the nodes host.

    Waits until they host every user of the data set, or, where ``min_nodes`` is given, until so many have
    answered; ``timeout`` in seconds. Raises ``PopulationError``.
    """
    answers: dict[int, Hosted] = {}
    refused: dict[int, str] = {}
    deadline = time.monotonic() + timeout
    while True:
        new = [node for node in grid.get_node_ids() if node not in answers and node not in refused]
        if new:
            queries = [Message(RecordDict(), node, "query", group_id="0") for node in new]
            for reply in exchange(grid, queries, max(1.0, deadline - time.monotonic())):
                _note(reply, answers, refused)
        if refused and not answers:
            raise PopulationError("; ".join(f"node {node}: {why}" for node, why in sorted(refused.items())[:3]))
        if _enough(answers, min_nodes):
            return population_of(answers)
        if time.monotonic() > deadline:
            raise PopulationError(_missing(answers, refused, min_nodes, timeout))
        if not new:
            time.sleep(POLL)


def _note(reply: Message, answers: dict[int, Hosted], refused: dict[int, str]) -> None:
    node = reply.metadata.src_node_id
    if reply.has_error():
        refused[node] = reply.error.reason or f"error {reply.error.code}"
        return
    try:
        hosted = read_hosted(reply.content)
    except UnreadableError as error:
        refused[node] = f"an answer that cannot be read ({error})"
        return
    if hosted.code != code_fingerprint():
        refused[node] = (
            "it runs another version of this program: restart it, and start runs from outside the project's folder"
        )
        return
    answers[node] = hosted


def _enough(answers: dict[int, Hosted], min_nodes: int) -> bool:
    if min_nodes:
        return len(answers) >= min_nodes
    hosted = sum(len(answer.users) for answer in answers.values())
    return bool(answers) and hosted >= max(answer.num_users for answer in answers.values())


def _missing(answers: dict[int, Hosted], refused: dict[int, str], min_nodes: int, timeout: float) -> str:
    hosted = sum(len(answer.users) for answer in answers.values())
    wanted = f"{min_nodes} nodes" if min_nodes else "nodes that host every user of the data set"
    text = f"After {timeout:g} s {len(answers)} nodes with {hosted} users have answered; the run needs {wanted}."
    if refused:
        text += " Refused: " + "; ".join(f"node {node}: {why}" for node, why in sorted(refused.items())[:3]) + "."
    return text
