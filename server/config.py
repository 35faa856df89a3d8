"""The options of a run that concern the server: read, checked and completed here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from attacks import attack_class
from attacks.attack import is_attacked
from attacks.images.poison_data import PoisonOptions
from models import MODELS
from models.images.classification import LocalTraining
from protocol.requests import LossOptions
from protocol.upload_dtype import UploadDtype
from server.results.trackers import TrackerName
from server.results.update_log import parse_rounds
from settings import plugins
from settings.options import RunConfig, as_run_config, option_name, option_names, read, require, with_plugin_options
from strategies.chain import compose, links, prefix_of
from strategies.names import names_of
from strategies.rule import Rule
from strategies.rules.fl_wbc import PREFIX, FlWbcOptions, is_chosen

AT_LEAST_ONE = (
    "embedding_dim", "num_server_rounds", "clients_per_round", "eval_every", "min_updates", "max_examples",
    "keep_checkpoints", "max_length", "max_batch_tokens", "num_clients", "contrastive_negatives", "nodes_per_process",
)  # fmt: skip

NOT_NEGATIVE = (
    "learning_rate", "weight_decay", "contrastive_weight", "seed", "num_nodes", "attack_stop", "node_timeout",
    "round_timeout", "round_patience", "checkpoint_every", "dirichlet_alpha", "eval_users", "min_nodes",
    "cpus_per_node", "gpus_per_node",
)  # fmt: skip


@dataclass(frozen=True)
class ServerOptions:
    """What a run is. ``pyproject.toml`` says what each option means; the defaults are the same."""

    dataset: str = "synthetic"
    data_dir: str = ""
    model: str = "mf"
    embedding_dim: int = 64
    max_length: int = 200
    max_batch_tokens: int = 4096
    num_clients: int = 20
    dirichlet_alpha: float = 0.0
    num_server_rounds: int = 1000
    clients_per_round: int = 50
    learning_rate: float = 0.0
    weight_decay: float = 1e-5
    dropout: float = 0.2
    negatives: Literal["static", "fresh"] = "static"
    contrastive_task: Literal["auto", "on", "off"] = "auto"
    contrastive_weight: float = 1.0
    contrastive_negatives: int = 15
    attack: str = "none"
    malicious_fraction: float = 0.01
    attack_start: int = 1
    attack_stop: int = 0
    defense: str = "none"
    eval_every: int = 100
    eval_users: int = 0
    seed: int = 0
    output_dir: str = ""
    run_name: str = ""
    tracker: TrackerName = "auto"
    record_updates: str = ""
    engine: Literal["ray", "flower", "local"] = "ray"
    num_nodes: int = 0
    nodes_per_process: int = 1
    ray_address: str = ""
    cpus_per_node: float = 0.0
    gpus_per_node: float = 0.0
    min_nodes: int = 0
    node_timeout: float = 300.0
    round_timeout: float = 600.0
    round_patience: float = 4.0
    min_updates: int = 1
    max_examples: int = 1_000_000
    upload_dtype: UploadDtype = "float32"
    quarantine_after: int = -1
    checkpoint_every: int = 100
    keep_checkpoints: int = 3
    resume: str = ""
    resume_without_state: bool = False
    plugin_dir: str = ""
    plugin_options: str = ""

    def __post_init__(self) -> None:
        require(self.model in MODELS, "model", self.model, "one of " + ", ".join(MODELS))
        for name in AT_LEAST_ONE:
            require(getattr(self, name) >= 1, option_name(name), getattr(self, name), "at least 1")
        for name in NOT_NEGATIVE:
            require(getattr(self, name) >= 0, option_name(name), getattr(self, name), "0 or more")
        require(self.max_examples < 1 << 31, "max-examples", self.max_examples, f"less than {1 << 31}")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a number from 0 to below 1")
        expected = "0 or more, or -1 for the usual"
        require(self.quarantine_after >= -1, "quarantine-after", self.quarantine_after, expected)
        fraction = self.malicious_fraction
        require(0 <= fraction < 1, "malicious-fraction", fraction, "a number from 0 to below 1")
        if self.attack != "none":
            self._require_attacked_round()
        parse_rounds(self.record_updates)
        require("/" not in self.run_name, "run-name", self.run_name, "a name without slashes")
        folder = Path(self.plugin_dir).expanduser()
        fits = not self.plugin_dir or (folder.is_absolute() and folder.is_dir())
        require(fits, "plugin-dir", self.plugin_dir, "the absolute path of a folder that exists")

    def _require_attacked_round(self) -> None:
        """Refuse an attack that no round of the run would see."""
        start, stop, last = self.attack_start, self.attack_stop, self.num_server_rounds
        require(start <= last, "attack-start", start, f"at most num-server-rounds = {last}, else nobody attacks")
        require(not stop or start <= stop, "attack-start", start, f"at most attack-stop = {stop}, else nobody attacks")


@dataclass(frozen=True)
class ServerConfig:
    """A run's options with everything completed that follows from others."""

    options: ServerOptions
    loss: LossOptions
    run_config: RunConfig

    @property
    def attacked(self) -> bool:
        """Whether anybody is malicious in this run."""
        return self.options.attack != "none" and self.options.malicious_fraction > 0

    def is_attacked(self, server_round: int) -> bool:
        """Whether malicious users attack in this round; outside ``attack-start`` to ``attack-stop`` they are honest."""
        return self.attacked and is_attacked(server_round, self.options.attack_start, self.options.attack_stop)

    def rule(self) -> Rule:
        """The defense, as a chain of rules in their first state."""
        options = self.options
        return compose(options.defense, self.run_config, options.clients_per_round, options.malicious_fraction)

    def rules(self) -> Iterator[Rule]:
        """The rules of that chain one by one, the outermost first."""
        return links(self.rule())

    @property
    def output_dir(self) -> Path:
        """Where run directories go, absolute. A relative one counts from where this process was started."""
        return Path(self.options.output_dir or "~/robust-fedrec/runs").expanduser().absolute()


def server_config(run_config: RunConfig) -> ServerConfig:
    """Read and check a run's configuration before anything is started. Raises ``OptionError``."""
    given = set(with_plugin_options(run_config)) - set(run_config)
    run_config = with_plugin_options(run_config)
    options = read(ServerOptions, run_config)
    plugins.search(options.plugin_dir)
    if options.attack != "none":
        kind = attack_class(options.attack, options.model)
        read(kind.Options, run_config, kind.prefix)
    card = MODELS[options.model]
    options = replace(
        options,
        learning_rate=options.learning_rate or card.learning_rate,
        weight_decay=options.weight_decay if card.weight_decay else 0.0,
    )
    # UNION's clients train with its contrastive task; its server half alone is another defense.
    asked = {"on": True, "off": False, "auto": "union" in names_of(options.defense)}
    loss = LossOptions(
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        dropout=options.dropout,
        negatives=options.negatives,
        contrastive_weight=options.contrastive_weight if asked[options.contrastive_task] else 0.0,
        contrastive_negatives=options.contrastive_negatives,
    )
    touched_rows = 2.0 + (loss.contrastive_negatives if loss.contrastive_weight else 0)
    own = {**card.defaults, "support-bound-rows-per-example": touched_rows}
    completed = {**run_config, **{name: value for name, value in own.items() if not run_config.get(name)}}
    config = ServerConfig(options, loss, completed)
    _require_offered(config)
    read(LocalTraining, run_config, "local")
    read(PoisonOptions, run_config, "poison")
    if is_chosen(options.defense):
        read(FlWbcOptions, run_config, PREFIX)
    _require_known(given, config)
    return config


def _require_offered(config: ServerConfig) -> None:
    """Refuse a rule that needs what the model does not have."""
    model = config.options.model
    for rule in config.rules():
        fits = not rule.needs or rule.needs in MODELS[model].offers
        expected = f"rules that fit model = {model!r}: {rule.name} needs {rule.needs}, which that model does not have"
        require(fits, "defense", config.options.defense, expected)


def _require_known(plugin_options: set[str], config: ServerConfig) -> None:
    """Refuse an option in ``plugin-options`` that neither the attack nor a rule reads: it is a slip of the pen."""
    known: set[str] = set()
    if config.options.attack != "none":
        kind = attack_class(config.options.attack, config.options.model)
        known.update(option_names(kind.Options, kind.prefix))
    for rule in config.rules():
        known.update(option_names(rule.Options, prefix_of(type(rule))))
    own = sorted(known - (set(config.run_config) - plugin_options))
    for name in sorted(plugin_options - known):
        require(False, "plugin-options", name, "one of " + ", ".join(own) if own else "none: no class of yours is used")


def effective(config: ServerConfig) -> dict[str, object]:
    """Every option as used, for ``config.json``."""
    return {**config.run_config, **as_run_config(config.options), "contrastive-weight": config.loss.contrastive_weight}
