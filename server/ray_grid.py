"""A grid whose nodes are long-lived Ray actors, each with its shard and its state in memory.

A round costs two hops through shared memory instead of Flower's polling and pickling: the model is put
into the object store once a round, an actor maps it without a copy, and so does the server with the
updates that come back. Messages, apps and mods are the same as on Flower's own engines.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import ray
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from server.direct_grid import DirectGrid

NODE_UNAVAILABLE = 5
CLIENT_FAILED = 2
"""Flower's error codes."""

SHARED_FROM = 64 * 1024
"""Bytes from which a record goes through the object store; a smaller one travels inside its call."""

Packed = dict[str, Any]
"""A record as plain values; arrays as views of their bytes, which Ray puts into shared memory as they are."""


@dataclass(frozen=True)
class Placement:
    """How many nodes there are and what an actor gets of the cluster.

    ``threads``: of torch, in each actor; ``together``: how many nodes share an actor, which saves the memory of a
    process each.
    """

    num_nodes: int
    cpus: float = 0.0
    gpus: float = 0.0
    threads: int = 1
    together: int = 1


class NodeActor:
    """One node, or a few: it calls the ClientApp on the messages that it gets, in its own process.

    ``node_configs``: each node's own configuration by its id.
    """

    def __init__(
        self, app: str, app_dir: str, run_id: int, node_configs: dict[int, Packed], run_config: Packed, threads: int
    ) -> None:
        sys.path.insert(0, app_dir)
        import torch

        torch.set_num_threads(threads)
        module_name, _, attribute = app.partition(":")
        module = importlib.import_module(module_name)
        # Ray puts the driver's working directory first on its workers' path: never run another copy of the app.
        place = Path(str(module.__file__)).resolve()
        if Path(app_dir).resolve() not in place.parents:
            raise ImportError(f"This worker imported the app from {place}, expected a file in {app_dir}.")
        self._app = getattr(module, attribute)
        self._contexts = {
            node: Context(run_id, node, node_config, RecordDict(), run_config)
            for node, node_config in node_configs.items()
        }

    def answer(self, address: tuple[int, str, str], content: dict[str, Any], *shared: Any) -> tuple[bool, Any]:
        """Whether it succeeded, and the packed reply or the error's text.

        ``address``: node, message type and group; ``shared``: records that were put once for several messages.
        """
        records = {name: shared[place] if isinstance(place, int) else place for name, place in content.items()}
        node, kind, group = address
        message = Message(_unpack(records), node, kind, group_id=group)
        try:
            return True, _pack(self._app(message, self._contexts[node]).content)
        except Exception as error:
            return False, f"{type(error).__name__}: {error}"


class RayGrid(DirectGrid):
    """Sends messages to actors and gathers the replies as they come."""

    def __init__(
        self, app: str, app_dir: Path, run_id: int, run_config: Packed, placement: Placement, state_dir: Path
    ) -> None:
        kind: Any = ray.remote(NodeActor).options(
            num_cpus=placement.cpus,
            num_gpus=placement.gpus,
            max_restarts=-1,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(placement.threads)}},
        )
        self._actors: dict[int, Any] = {}
        nodes = range(1, placement.num_nodes + 1)
        for first in nodes[:: placement.together]:
            node_configs = {
                node: {
                    "partition-id": node - 1,
                    "num-partitions": placement.num_nodes,
                    "state-dir": str(state_dir),
                }
                for node in nodes[first - 1 : first - 1 + placement.together]
            }
            actor = kind.remote(app, str(app_dir), run_id, node_configs, dict(run_config), placement.threads)
            self._actors.update(dict.fromkeys(node_configs, actor))
        super().__init__(self._actors)
        self._pending: dict[str, tuple[Message, Any]] = {}
        self._ids = count(1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; a record that several messages share goes into the object store once."""
        stored: dict[int, Any] = {}
        ids = []
        for message in messages:
            content: dict[str, Any] = {}
            shared: list[Any] = []
            for name, record in message.content.items():
                if isinstance(record, ArrayRecord) and _size(record) >= SHARED_FROM:
                    if id(record) not in stored:
                        stored[id(record)] = ray.put(_pack_record(record))
                    content[name] = len(shared)
                    shared.append(stored[id(record)])
                else:
                    content[name] = _pack_record(record)
            about = message.metadata
            address = (about.dst_node_id, about.message_type, about.group_id)
            ids.append(str(next(self._ids)))
            self._pending[ids[-1]] = (message, self._actors[address[0]].answer.remote(address, content, *shared))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there, each once."""
        return self._collect(list(message_ids), 0.0)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies that come within ``timeout`` seconds; later ones are dropped."""
        ids = list(self.push_messages(messages))
        replies = self._collect(ids, timeout)
        for message_id in ids:
            self._pending.pop(message_id, None)
        return replies

    def close(self) -> None:
        """End the actors."""
        for actor in set(self._actors.values()):
            ray.kill(actor)
        self._actors.clear()

    def _collect(self, ids: list[str], timeout: float | None) -> list[Message]:
        futures = {self._pending[message_id][1]: message_id for message_id in ids if message_id in self._pending}
        if not futures:
            return []
        done, _ = ray.wait(list(futures), num_returns=len(futures), timeout=timeout)
        return [self._reply(futures[future]) for future in done]

    def _reply(self, message_id: str) -> Message:
        message, future = self._pending.pop(message_id)
        try:
            succeeded, answer = ray.get(future)
        except ray.exceptions.RayError as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return Message(Error(NODE_UNAVAILABLE, reason), reply_to=message)
        if not succeeded:
            return Message(Error(CLIENT_FAILED, answer), reply_to=message)
        return Message(_unpack(answer), reply_to=message)


def start_ray(address: str) -> None:
    """Connect to the cluster at ``address`` ("auto": the running one), or start one on this machine for ""."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(
        address=address or None,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        ignore_reinit_error=True,
    )


def _size(record: ArrayRecord) -> int:
    return sum(len(array.data) for array in record.values())


def _pack(content: RecordDict) -> dict[str, Packed]:
    return {name: _pack_record(record) for name, record in content.items()}


def _pack_record(record: Any) -> Packed:
    if isinstance(record, ArrayRecord):
        arrays = {
            name: (array.dtype, array.shape, array.stype, np.frombuffer(array.data, np.uint8))
            for name, array in record.items()
        }
        return {"arrays": arrays}
    return {"metrics" if isinstance(record, MetricRecord) else "config": dict(record.items())}


def _unpack(content: dict[str, Packed]) -> RecordDict:
    return RecordDict({name: _unpack_record(packed) for name, packed in content.items()})


def _unpack_record(packed: Packed) -> Any:
    if "arrays" not in packed:
        return MetricRecord(packed["metrics"]) if "metrics" in packed else ConfigRecord(packed["config"])
    record = ArrayRecord()
    for name, (dtype, shape, stype, values) in packed["arrays"].items():
        array = Array(dtype, shape, stype, b"")
        # A view of shared memory in place of a copy; its readers take any buffer.
        array.data = values.data
        record[name] = array
    return record
