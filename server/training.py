"""A run from its options to its summary: its task, its nodes, the state it begins or goes on with, its strategy."""

from __future__ import annotations

import secrets
from collections import Counter
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

from flwr.common.logger import log
from flwr.serverapp import Grid

from protocol.requests import PopulationQuery
from server.config import ServerConfig, effective
from server.grids.direct_grid import DirectGrid
from server.grids.engine import is_simulated
from server.journal import RunIdentity, RunJournal
from server.population.nodes import discover
from server.population.population import Population
from server.recovery.checkpoint import Checkpoints
from server.recovery.resume import resumable, taken_up
from server.results.closing import closing_lines
from server.results.progress import Progress
from server.results.run_directory import held
from server.results.trackers import Tracking
from server.results.update_log import UpdateLog, parse_rounds
from server.run_settings import RunSettings
from server.state import RunState
from server.strategy import FedRec
from server.tasks import Task, make_task
from settings.options import require
from strategies.server_model import ServerModel

FAREWELL = 20.0
"""Seconds that a deployed run gives the ServerApp of a SuperLink that has died to notice it and end."""


QUARANTINE_AFTER = 5
"""Rounds in a row with an offence after which a deployed node is not asked any more, where the option says nothing."""


class NothingTrainedError(RuntimeError):
    """A run came to its last round, and no round had trained the model; the text says why."""


def run_training(grid: Grid, config: ServerConfig, directory: Path) -> dict[str, Any]:
    """Train as the configuration says; results in ``directory``. Returns the summary."""
    task = make_task(config)
    for notice in _notices(config, task):
        log(WARNING, notice)
    log(INFO, "Results: %s", directory)
    with held(directory, 0.0 if isinstance(grid, DirectGrid) else FAREWELL):
        summary = make_strategy(grid, config, directory, task).start(grid).summary
    for line in closing_lines(summary):
        log(INFO, line)
    log(INFO, "Results: %s", directory)
    return summary


def make_strategy(grid: Grid, config: ServerConfig, directory: Path, task: Task) -> FedRec:
    """The strategy of a run, for the nodes that are there, in its first state or in that of a checkpoint.

    Raises ``PopulationError`` where nodes are missing, ``OptionError`` where there is nothing to resume.
    """
    options, first = config.options, task.first
    model = ServerModel.start(first.items, first.shared, options.learning_rate, options.weight_decay, task.optimizer)
    nodes = len(list(grid.get_node_ids())) if isinstance(grid, DirectGrid) else 0
    checkpoints = Checkpoints(directory, options.keep_checkpoints)
    found = resumable(checkpoints, config, directory, model, nodes) if options.resume else None
    expected = None if found is None else Counter[int](found.about["nodes_hosting"])
    # Nodes may keep state of an earlier run of the same name: the number tells the two apart.
    run = found.state.run if found else f"{directory.name}-{secrets.token_hex(4)}"
    resumed_at = (*checkpoints.resumes(), found.state.round) if found else ()
    query = PopulationQuery(run, resumed_at, options.resume_without_state, bool(config.attack_metrics()))
    population = discover(grid, options.min_nodes, options.node_timeout, task.catalogue, expected, query)
    settings = _settings(config, task, population, isinstance(grid, DirectGrid) or is_simulated(grid))
    about = {
        "options": effective(config),
        "nodes": nodes,
        "population": population.fingerprint,
        "nodes_hosting": sorted(population.node_digests.elements()),
        "data": population.data_digest,
    }
    if found is None:
        state = RunState(run, 0, model, settings.rule.state())
    else:
        state = taken_up(found, about, checkpoints, directory)
    identity = RunIdentity(
        effective(config), about, [str(item) for item in task.catalogue.item_ids], " ".join(_notices(config, task))
    )
    observers = (
        Tracking(options.tracker, directory),
        Progress(options.num_server_rounds, task.shown, state.round),
        UpdateLog(directory, parse_rounds(options.record_updates)),
    )
    positions = found.about["positions"] if found else None
    journal = RunJournal(directory, identity, checkpoints, options.checkpoint_every, observers, positions)
    return FedRec(state, settings, journal)


def _notices(config: ServerConfig, task: Task) -> list[str]:
    """What whoever reads a run's results must know: said at its start, and in its summary."""
    attack = config.options.attack
    nobody = f"attack = {attack!r}, but malicious-fraction = 0: nobody attacks in this run."
    sees = f"attack = {attack!r} saw every benign update of a round, which only a simulation grants."
    told = {task.notice: bool(task.notice), nobody: attack != "none" and not config.attacked}
    told[sees] = config.omniscient() is not None
    return [notice for notice, holds in told.items() if holds]


def _settings(config: ServerConfig, task: Task, population: Population, simulated: bool) -> RunSettings:
    options, users = config.options, len(population.users)
    size = options.clients_per_round
    if config.attacked:
        require(
            len(population.malicious_users) > 0,
            "attack",
            options.attack,
            f"a node that hosts a malicious user: malicious-fraction = {options.malicious_fraction} of {users} users "
            "is nobody, or the attacker's node did not come. Raise the fraction, start that node, or say attack='none'",
        )
    omniscient, expected = config.omniscient(), "another one: only a simulation shows it the benign updates"
    require(omniscient is None or simulated, "attack", options.attack, expected)
    usual = 0 if simulated else QUARANTINE_AFTER
    require(size <= users, "clients-per-round", size, f"at most the {users} users that the nodes host")
    return RunSettings(
        population=population,
        rule=config.rule(),
        seed=options.seed,
        clients_per_round=size,
        loss=config.loss,
        metrics=task.metrics,
        selection=task.selection,
        measured=task.measured,
        attack_metrics=bool(config.attack_metrics()),
        targets=task.targets,
        max_examples=options.max_examples,
        value_bound=options.value_bound,
        min_updates=options.min_updates,
        eval_users=options.eval_users,
        quarantine_after=options.quarantine_after if options.quarantine_after >= 0 else usual,
        upload_dtype=options.upload_dtype,
        round_timeout=options.round_timeout,
        round_patience=options.round_patience,
        accuracy=task.accuracy,
        own_update=task.own_update,
        attacked=config.is_attacked,
        omniscient=omniscient,
        num_rounds=options.num_server_rounds,
        eval_every=options.eval_every,
    )
