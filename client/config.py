"""What a node is told by its own configuration and by the run's: read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.node_options import NodeOptions
from models import MODELS
from settings import plugins
from settings.options import OptionError, RunConfig, option_names, read, require, with_plugin_options
from settings.paths import absolute, is_name
from settings.run import RunOptions
from strategies.rules.fl_wbc import PREFIX, FlWbcOptions, is_chosen


@dataclass(frozen=True)
class ClientConfig:
    """Everything a node reads of its configuration; ``run_config`` only for an attack's own options."""

    node: NodeOptions
    run: RunOptions
    run_config: RunConfig

    @property
    def attacked(self) -> bool:
        """Whether anybody is malicious in this run."""
        return self.run.attacked

    @property
    def fl_wbc(self) -> FlWbcOptions | None:
        """What benign users add to their updates, where the defense asks for it."""
        return read(FlWbcOptions, self.run_config, PREFIX) if is_chosen(self.run.defense) else None

    @property
    def device(self) -> str:
        """The node's own device, else the run's."""
        return self.node.device or self.run.device

    @property
    def data_dir(self) -> str | None:
        """The node's own data directory, else the run's, else the default."""
        return self.node.data_dir or self.run.data_dir or None

    def state_dir(self, run: str) -> Path | None:
        """Where the node keeps its state in this run; ``None``: in memory.

        Raises ``OptionError`` for a run whose name could lead out of the directory.
        """
        if not run or not is_name(run):
            raise OptionError(f"run = {run!r}: expected a name without slashes.")
        root = self._state_root
        return None if root is None else root / run / self.node.name

    @property
    def _state_root(self) -> Path | None:
        base = self.node.state_dir or self.run.state_dir
        if base == "memory":
            return None
        return absolute("state-dir", base or "~/.cache/robust-fedrec/state")


def client_config(run_config: RunConfig, node_config: RunConfig) -> ClientConfig:
    """Read both configurations. Raises ``OptionError``."""
    run_config = with_plugin_options(run_config)
    known = option_names(NodeOptions)
    for name in node_config:
        require(name in known, "--node-config", name, "one of " + ", ".join(known))
    config = ClientConfig(read(NodeOptions, node_config), read(RunOptions, run_config), run_config)
    own = config.node.data
    card = MODELS.get(config.run.model)
    fits = not own or card is None or card.task == "recommendation"
    require(
        fits, "data", own, f"nothing with model = {config.run.model!r}: its clients get shares of the run's data set"
    )
    plugins.search(config.run.plugin_dir)
    return config
