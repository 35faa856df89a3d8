"""What the files of a run's directory hold, field by field; ``python -m server.results`` makes the schemas of it."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from server.results.status import Status

Named = dict[str, float | None]
"""Numbers by name; one that is unknown is null."""


class Machine(TypedDict):
    """What a run ran on."""

    python: str
    """The version of Python."""
    platform: str
    """The operating system, as Python's ``platform`` names it."""


class Config(TypedDict):
    """``config.json``: what was asked, and what it ran on."""

    options: dict[str, bool | int | float | str]
    """Every option as used, those of one's own classes as well."""
    versions: dict[str, str | None]
    """Versions of the packages that decide numbers; null where one is not installed."""
    machine: Machine
    """What it ran on."""


class RuleLine(TypedDict, extra_items=float | None):  # type: ignore[call-arg]  # PEP 728, which mypy does not know
    """One rule in a round. Further numbers are the rule's own notes, such as UNION's ``mean_uniformity``."""

    filtered: list[int]
    """The users whose updates it dropped."""
    scores: list[float | None]
    """A score for each of ``users`` whom no earlier rule filtered, higher for more suspicious."""


class BoundedLine(TypedDict):
    """How many users' updates were cut before any rule saw them."""

    weights: int
    """How many weights were lowered (``mean-weight-bound``)."""
    values: int
    """How many users' values were lowered (``value-bound``)."""


class RoundLine(TypedDict):
    """A line of ``rounds.jsonl``: one round."""

    round: int
    """The round's number, from 1."""
    asked: int
    """How many users were asked for an update."""
    updates: int
    """How many updates passed admission."""
    skipped: bool
    """Whether the model stayed as it was."""
    loss: float | None
    """The mean training loss, weighted by examples; null where nobody told a usable one."""
    users: list[int]
    """The users whose updates passed admission, in ascending order."""
    malicious: list[int]
    """Those of them who attacked in this round; for measurement alone, no rule knows."""
    rules: dict[str, RuleLine]
    """Each rule of the defense by name, outermost first."""
    bounded: BoundedLine | None
    """How many updates were cut before; null where nothing came in."""
    attack: dict[str, float]
    """The attacker's own numbers, as a simulated one tells them: ClusterAttack's loss and K."""
    rejected: dict[str, str]
    """Why the update of a user was not admitted, by user."""
    reasons: dict[str, int]
    """How many were rejected, by reason."""
    failed_nodes: dict[str, str]
    """Why a node gave no answer, by node."""
    quarantined: list[int]
    """The nodes that are not asked from now on."""
    bytes_up: int
    """Bytes of the arrays that nodes sent."""
    bytes_down: int
    """Bytes of the arrays that were sent to them."""
    seconds: float
    """How long the round took."""


class EvaluationLine(TypedDict):
    """A line of ``metrics.jsonl``: one evaluation."""

    round: int
    """The round after which it was."""
    valid: NotRequired[Named]
    """The metrics of the held-out items but one, or of the validation images ([glossary](glossary.md))."""
    test: NotRequired[Named]
    """The metrics of the last held-out items, or of the test images."""
    loss: float | None
    """The training loss of that round."""
    of_users: int
    """How many users the nodes that answered host, of those who were to be counted."""
    counted: dict[str, int]
    """How many users were counted, by part."""
    failed_nodes: dict[str, str]
    """Why a node gave no counts, by node."""
    seconds: float
    """Time since the run began, resumed parts added up."""
    evaluation_seconds: float
    """How long the evaluation took."""


class Detected(TypedDict):
    """How well a rule told malicious users from benign ones, over all rounds; null where there was nobody to tell."""

    precision: float | None
    """The share of malicious users among the filtered."""
    recall: float | None
    """The share of filtered users among the malicious."""
    false_positive_rate: float | None
    """The share of filtered users among the benign."""
    auc: float | None
    """The probability that a malicious user has a higher score than a benign one of the same round."""


class Excluded(TypedDict):
    """Benign users with so many interactions, and how often they were filtered."""

    fewest: int
    """From so many interactions."""
    most: int
    """To so many."""
    rate: float | None
    """The share of their updates that a rule filtered."""


class Traffic(TypedDict):
    """Bytes of arrays, without what gRPC adds."""

    up: int
    """From nodes to the server, in rounds."""
    down: int
    """From the server to nodes, in rounds."""
    up_per_round: int
    """The same in a round, on average."""
    down_per_round: int
    """The same in a round, on average."""
    up_per_update: int
    """The same for an update that was admitted."""
    down_per_update: int
    """The same for an update that was admitted."""
    evaluation_up: int
    """From nodes to the server, in evaluations."""
    evaluation_down: int
    """From the server to nodes, in evaluations."""


class Summary(TypedDict):
    """``summary.json``: how the run ended, and its results."""

    status: Status
    """``completed`` for a result; else what the run is instead."""
    reason: NotRequired[str]
    """Why the status is not ``completed``."""
    run: str
    """The directory's name."""
    notice: NotRequired[str]
    """What whoever reads these results must know."""
    rounds: int
    """How many rounds there were."""
    best_round: int | None
    """The round with the best evaluation on ``valid``; null where none is known."""
    valid: Named | None
    """The metrics at the best round."""
    test: Named | None
    """The metrics at the best round."""
    test_last_five: Named | None
    """The mean of each test metric over the last five evaluations."""
    partial_evaluations: int
    """Evaluations that are left out, because nodes with users did not answer them."""
    unknown_evaluations: int
    """Evaluations that nobody answered, or that found nobody to evaluate."""
    detection: dict[str, Detected]
    """What each rule found; of several rules also the whole chain."""
    excluded_by_interactions: list[Excluded]
    """Whom the defense wronged, by how active they are."""
    rejected: dict[str, int]
    """How many updates were not admitted, by reason."""
    failed_answers: int
    """How many answers of nodes failed."""
    failures: dict[str, int]
    """The same by kind."""
    skipped_rounds: int
    """Rounds that left the model as it was."""
    attacked_rounds: int
    """Rounds in which malicious users were asked."""
    seconds: float
    """How long the run took, resumed parts added up."""
    rounds_per_second: float | None
    """Without evaluations."""
    bytes: Traffic
    """What crossed the wire."""
    quarantined: dict[str, int]
    """The round since which a node was not asked any more, by node."""


FILES: dict[str, Any] = {
    "config.json": Config,
    "rounds.jsonl": RoundLine,
    "metrics.jsonl": EvaluationLine,
    "summary.json": Summary,
}
"""What a file of a run's directory holds, or each of its lines."""
