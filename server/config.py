"""The options of a run as the server uses them: read, checked and completed here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from attacks import attack_class, make_attack
from attacks.attack import Attack, is_attacked
from attacks.images.poison_data import PoisonOptions
from data.columns import parse_columns
from metrics import METRICS
from metrics.counting import require_usable
from metrics.metric import Metric
from models import MODELS
from models.images.classification import LocalTraining
from protocol.requests import LossOptions
from server.results.update_log import parse_rounds
from settings import plugins
from settings.options import RunConfig, as_run_config, option_names, read, require, with_plugin_options
from settings.paths import absolute, is_folder
from settings.run import RunOptions
from strategies.chain import compose, links, prefix_of
from strategies.names import names_of
from strategies.rule import Rule
from strategies.rules.fl_wbc import PREFIX, FlWbcOptions, is_chosen


@dataclass(frozen=True)
class ServerConfig:
    """A run's options with everything completed that follows from others."""

    options: RunOptions
    loss: LossOptions
    run_config: RunConfig

    @property
    def attacked(self) -> bool:
        """Whether anybody is malicious in this run."""
        return self.options.attacked

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

    def metrics(self) -> tuple[Metric, ...]:
        """What nodes count in an evaluation: the task's metrics, the first of which selects the best round, and then
        the attack's own, whether anybody is malicious or not.
        """
        return (*METRICS[MODELS[self.options.model].task], *self.attack_metrics())

    def attack_metrics(self) -> tuple[Metric, ...]:
        """The metrics that the attack brings along."""
        if self.options.attack == "none":
            return ()
        return tuple(make_attack(self.options.attack, self.run_config).metrics())

    def omniscient(self) -> Attack | None:
        """The attack, where it must be shown the benign updates."""
        if not self.attacked:
            return None
        attack = make_attack(self.options.attack, self.run_config)
        return attack if attack.omniscient else None

    @property
    def output_dir(self) -> Path:
        """Where run directories go, absolute. A relative one counts from where this process was started."""
        return absolute("output-dir", self.options.output_dir or "~/robust-fedrec/runs")


def server_config(run_config: RunConfig) -> ServerConfig:
    """Read and check a run's configuration before anything is started. Raises ``OptionError``."""
    given = set(with_plugin_options(run_config)) - set(run_config)
    run_config = with_plugin_options(run_config)
    options = read(RunOptions, run_config)
    _require_usable(options)
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
        pieck_items=options.pieck_items,
        pieck_item_weight=options.pieck_item_weight,
        pieck_user_weight=options.pieck_user_weight,
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
    _require_countable(config)
    return config


def _require_usable(options: RunOptions) -> None:
    """Refuse what only the server can judge: a model that does not exist, rounds or a folder that are none."""
    require(options.model in MODELS, "model", options.model, "one of " + ", ".join(MODELS))
    parse_rounds(options.record_updates)
    parse_columns(options.columns)
    own = options.plugin_dir
    fits = not own or (own.startswith(("/", "~")) and is_folder("plugin-dir", absolute("plugin-dir", own)))
    require(fits, "plugin-dir", options.plugin_dir, "the absolute path of a folder that exists")


def _require_offered(config: ServerConfig) -> None:
    """Refuse a rule that needs what the model does not have."""
    model = config.options.model
    for rule in config.rules():
        fits = not rule.needs or rule.needs in MODELS[model].offers
        expected = f"rules that fit model = {model!r}: {rule.name} needs {rule.needs}, which that model does not have"
        require(fits, "defense", config.options.defense, expected)


def _require_countable(config: ServerConfig) -> None:
    """Refuse an attack's own metrics where nodes have nothing to count, or with names that others have."""
    model, attack, own = config.options.model, config.options.attack, config.attack_metrics()
    expected = f"an attack without metrics of its own: with model = {model!r} nodes have no held-out items to count"
    require(not own or MODELS[model].task == "recommendation", "attack", attack, expected)
    require_usable(config.metrics(), f"attack = {attack!r}")
    asked = config.options.target_items
    expected = f"nothing with model = {model!r}, which recommends no items"
    require(not asked or MODELS[model].task == "recommendation", "target-items", asked, expected)
    kind = None if attack == "none" else attack_class(attack, model)
    expected = f"ids, coldest:N or random:N, as attack = {attack!r} promotes items"
    require(bool(asked) or kind is None or not kind.promotes, "target-items", asked, expected)
    share = config.options.public_share
    expected = f"a share above 0, as attack = {attack!r} knows the public interactions"
    require(share > 0 or kind is None or not kind.knows_public, "public-share", share, expected)


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
