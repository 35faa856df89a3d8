"""What stays the same in all rounds of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ConfigRecord
from torch import Tensor

from attacks.attack import Attack
from metrics.counting import Metrics
from metrics.metric import Metric, Selection
from protocol.requests import GlobalModel, LossOptions
from protocol.upload_dtype import UploadDtype
from server.population.population import Population
from strategies.rule import Rule


def _never(server_round: int) -> bool:
    return False


@dataclass(frozen=True)
class RunSettings:
    """Who takes part, by which rule their updates are combined, and what is asked of them.

    ``metrics``: what nodes count in an evaluation, and ``attack_metrics`` whether some of them are the attack's;
    ``targets``: indexes of the items whose promotion is measured;
    ``measured``: what the server measures of a model by itself, by part (``valid``, ``test``); ``selection``: what
    selects the best round; ``min_updates``: a round with fewer valid updates leaves the model as it is;
    ``eval_users``: how many benign users an evaluation asks, 0 for all; ``quarantine_after``: a node that failed or had
    a user rejected in so many of its rounds in a row is not asked again, 0 for never; ``upload_dtype``: what updates
    travel in;
    ``round_timeout``: seconds that replies are waited for, in training with ``round_patience`` (see ``Deadline``);
    ``value_bound``: see ``cohort_bounds``; ``accuracy``: of shared parameters (p,) on the server's validation set,
    where it has one; ``own_update``: what training on that set makes of them in a round, as a difference (p,);
    ``attacked``: whether malicious users attack in a round, for measurement alone; ``omniscient``: the attack that a
    simulation shows the benign updates;
    ``eval_every``: rounds from one evaluation to the next, the last round has one in any case; ``train_config``,
    ``evaluate_config``: what else is told to nodes, for apps other than this one's.
    """

    population: Population
    rule: Rule
    seed: int
    clients_per_round: int
    loss: LossOptions
    metrics: tuple[Metric, ...] = ()
    selection: Selection = Selection()  # noqa: RUF009
    measured: Callable[[GlobalModel], Metrics] | None = None
    attack_metrics: bool = False
    targets: tuple[int, ...] = ()
    max_examples: int = 1_000_000
    value_bound: float = 0.0
    min_updates: int = 1
    eval_users: int = 0
    quarantine_after: int = 0
    upload_dtype: UploadDtype = "float32"
    round_timeout: float = 600.0
    round_patience: float = 0.0
    accuracy: Callable[[Tensor], float] | None = None
    own_update: Callable[[Tensor, int], Tensor] | None = None
    attacked: Callable[[int], bool] = _never
    omniscient: Attack | None = None
    num_rounds: int = 3
    eval_every: int = 1
    train_config: ConfigRecord | None = None
    evaluate_config: ConfigRecord | None = None
