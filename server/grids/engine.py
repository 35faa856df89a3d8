"""Which grid a run's messages go through: Flower's own, Ray actors, or this process."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging import WARNING
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid

from models.kernels.prepare import prepare
from models.threads import one_thread
from protocol.transport import send_as
from server.config import ServerConfig
from server.grids import ray_access
from server.grids.freed_memory import keep_freed_memory
from settings.options import OptionError, require
from strategies.sparse.side_by_side import use_threads

if TYPE_CHECKING:
    from server.grids.ray_grid import Placement

CLIENT_APP = "client.app:app"
"""What nodes run, as ``pyproject.toml`` names it; the server hands it on and never looks inside."""

RAY_START = 60.0
"""Seconds to wait for the Ray instance that Flower's simulation starts beside the ServerApp."""


def is_simulated(grid: Grid | None) -> bool:
    """Whether the run is a simulation, in which another engine may take over; a deployment's nodes are real."""
    return grid is None or type(grid).__name__ == "InMemoryGrid"


@contextmanager
def open_engine(grid: Grid | None, config: ServerConfig, context: Context, directory: Path) -> Iterator[Grid]:
    """The grid of the engine that the options name; closed when the run ends.

    ``grid`` is Flower's own, ``None`` where no Flower runtime is at hand.
    """
    engine = config.options.engine
    if grid is None:
        send_as(context.run_id, context.node_id)
    keep_freed_memory()
    prepare()
    with _cores_for_rules():
        if grid is not None and not is_simulated(grid):
            yield grid
        elif grid is not None and engine == "flower":
            _await_flowers_ray(config.options.ray_address)
            yield grid
        elif engine == "local" or (grid is None and engine == "flower"):
            yield _local(config, context, directory)
        else:
            yield from _ray(grid, config, context, directory)


def num_nodes(config: ServerConfig) -> int:
    """The option, or one node a core, and one for the attacker where there is one."""
    return config.options.num_nodes or (os.cpu_count() or 1) + config.attacked


def _local(config: ServerConfig, context: Context, directory: Path) -> Grid:
    import client.app
    from server.grids.local_grid import LocalGrid

    # What nodes keep in memory is gone when this process is: a run that can be resumed keeps it on disk.
    kept = _kept(context, directory) if config.options.checkpoint_every else "memory"
    return LocalGrid(client.app.app, dict(context.run_config), num_nodes(config), kept, context.run_id)


def _kept(context: Context, directory: Path) -> str:
    """Where the nodes keep their state: where the run says, else beside its results."""
    return str(context.run_config.get("state-dir") or directory / "nodes")


def _ray(grid: Grid | None, config: ServerConfig, context: Context, directory: Path) -> Iterator[Grid]:
    if grid is not None:
        _await_flowers_ray(config.options.ray_address)
    ray_access.start_ray(config.options.ray_address)
    from server.grids.ray_grid import Placement, RayGrid

    nodes = num_nodes(config)
    options = config.options
    placement = Placement(nodes, options.cpus_per_node, options.gpus_per_node, together=options.nodes_per_process)
    require_room(placement)
    app_dir = Path(__file__).resolve().parents[2]
    run_config = dict(context.run_config)
    if options.device == "auto":
        # Without a share of a GPU an actor may see all of them, or none: it depends on who started Ray.
        run_config["device"] = "cuda" if options.gpus_per_node else "cpu"
    engine = RayGrid(CLIENT_APP, app_dir, context.run_id, run_config, placement, _kept(context, directory))
    try:
        yield engine
    finally:
        engine.close()


def require_room(placement: Placement) -> None:
    """Refuse a run whose actors ask for more than the cluster has: Ray would wait for it in silence.

    Raises ``OptionError``.
    """
    import ray

    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]  # type: ignore[no-untyped-call]
    actors = math.ceil(placement.num_nodes / placement.together)
    for option, kind, share in (("cpus-per-node", "CPU", placement.cpus), ("gpus-per-node", "GPU", placement.gpus)):
        if not share:
            continue
        amounts = [machine.get(kind, 0.0) for machine in machines]
        # A GPU's shares are of one GPU each.
        whole = kind == "GPU" and share < 1
        room = sum(int(n) * int(1 / share + 1e-9) if whole else int(n / share + 1e-9) for n in amounts)
        require(
            room >= actors,
            option,
            share,
            f"an amount of which Ray can give {actors} processes one each; its machines have "
            f"{' and '.join(f'{amount:g}' for amount in amounts)} {kind}s (num-nodes, nodes-per-process)",
        )


@contextmanager
def _cores_for_rules() -> Iterator[None]:
    """Whole pieces of a rule's work on each core instead of each operation split among the cores."""
    use_threads(torch.get_num_threads())
    try:
        with one_thread():
            yield
    finally:
        use_threads(1)


def _await_flowers_ray(address: str) -> None:
    """Wait for the Ray of Flower's simulation, and say what is wrong with it.

    Flower calls ray.init in a thread of its own while the ServerApp begins; a second call at that moment would die.
    """
    import ray

    named = os.environ.get(ray_access.ADDRESS, "")
    if named not in ("", "local"):
        try:
            ray_access.require_access(ray_access.running_ray(), ray_access.ADDRESS, named)
        except OptionError:
            log(
                WARNING,
                "Flower waits for that Ray all the same: end the run (flwr stop) and its SuperLink.",
            )
            raise
    _wait_for(ray.is_initialized, RAY_START)
    _require_cluster(address)
    if ray.is_initialized():
        ray_access.warn_of_flowers_ray()


def _require_cluster(address: str) -> None:
    """Refuse a run that asks for another Ray than the one that Flower's simulation has connected this process to."""
    import ray

    if not address or not ray.is_initialized():
        return
    connected = ray.get_runtime_context().gcs_address
    require(
        address in (connected, "auto") and "RAY_ADDRESS" in os.environ,
        "ray-address",
        address,
        f"no address under flwr run, where Flower itself connects to Ray (here: {connected}) before this app is asked. "
        f"Start it as RAY_ADDRESS={address} flwr run …, or call server.simulation.simulate with this option",
    )


def _wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
