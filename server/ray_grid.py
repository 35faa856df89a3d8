"""A grid whose nodes are long-lived Ray actors, each with its shard and its state in memory.

A round costs two hops through shared memory instead of Flower's polling and pickling: the model is laid out once
a round, actors on this machine read it there, and the server what they answer (see ``handed_memory``); for actors
on others it goes through Ray's object store. Messages, apps and mods are the same as on Flower's own engines.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import ray
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from server.direct_grid import DirectGrid
from server.freed_memory import ENVIRONMENT
from server.handed_memory import HandedMemory, Place, read

NODE_UNAVAILABLE = 5
CLIENT_FAILED = 2
"""Flower's error codes."""

SHARED_FROM = 64 * 1024
"""Bytes from which a record goes through shared memory; a smaller one travels inside its call."""

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


@dataclass(frozen=True)
class Near:
    """For an actor on the server's machine: the number of the exchange, and where the message's large records are."""

    exchange: int
    place: Place | None


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
        self._exchange = 0
        self._handed: HandedMemory | None = None
        self._contexts = {
            node: Context(run_id, node, node_config, RecordDict(), run_config)
            for node, node_config in node_configs.items()
        }

    def is_near(self, place: Place) -> bool:
        """Whether this process can read the server's memory, and so the server this one's."""
        try:
            return bool(read(place))
        except OSError:
            return False

    def answer(
        self, address: tuple[int, str, str], content: dict[str, Any], near: Near | None, *stored: Any
    ) -> tuple[bool, Any]:
        """Whether it succeeded, and the packed reply or the error's text.

        ``address``: node, message type and group; ``stored``: records that were put into the object store once for
        several messages; ``near``: how the server, on the same machine, hands over memory, ``None`` for another one.
        """
        node, kind, group = address
        try:
            memory = None if near is None or near.place is None else read(near.place)
            records = {name: stored[part] if isinstance(part, int) else part for name, part in content.items()}
            message = Message(_unpack(records, memory), node, kind, group_id=group)
            reply = self._app(message, self._contexts[node]).content
        except Exception as error:
            return False, f"{type(error).__name__}: {error}"
        if near is None:
            return True, (_pack(dict(reply.items())), None)
        if self._handed is None:
            self._handed = HandedMemory()
        if near.exchange != self._exchange:
            # The server has read what belonged to the last exchange, or waits for it no longer.
            self._handed.clear()
            self._exchange = near.exchange
        return True, _hand_over(reply, self._handed)


class RayGrid(DirectGrid):
    """Sends messages to actors and gathers the replies as they come."""

    def __init__(
        self, app: str, app_dir: Path, run_id: int, run_config: Packed, placement: Placement, state_dir: Path
    ) -> None:
        kind: Any = ray.remote(NodeActor).options(
            num_cpus=placement.cpus,
            num_gpus=placement.gpus,
            max_restarts=-1,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(placement.threads), **ENVIRONMENT}},
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
        self._exchange = 0
        self._outgoing: _Outgoing | None = None
        self._near: set[Any] = set()
        self._probes: dict[Any, Any] = {}
        with suppress(OSError):
            self._probe = HandedMemory()
            place, _ = self._probe.add([b"probe"])
            self._probes = {actor.is_near.remote(place): actor for actor in set(self._actors.values())}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; a record that several messages share goes into shared memory once."""
        self._exchange += 1
        self._find_near()
        outgoing = _Outgoing()
        ids = []
        for message in messages:
            about = message.metadata
            actor = self._actors[about.dst_node_id]
            # Replies to a query may be taken up one after another, when another exchange is under way.
            near = actor in self._near and about.message_type != "query"
            content, place, stored = outgoing.handed(message.content) if near else outgoing.stored(message.content)
            address = (about.dst_node_id, about.message_type, about.group_id)
            ids.append(str(next(self._ids)))
            future = actor.answer.remote(address, content, Near(self._exchange, place) if near else None, *stored)
            self._pending[ids[-1]] = (message, future)
        # Actors read it when they come to it: until the next exchange it stays.
        self._outgoing = outgoing
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
        self._near.clear()

    def _find_near(self) -> None:
        """Who of those asked has said by now that it can read this process' memory."""
        if not self._probes:
            return
        done, _ = ray.wait(list(self._probes), num_returns=len(self._probes), timeout=0)
        for probe in done:
            actor = self._probes.pop(probe)
            with suppress(ray.exceptions.RayError):
                if ray.get(probe):
                    self._near.add(actor)

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
        packed, place = answer
        try:
            memory = None if place is None else read(place)
        except OSError as error:
            # It answered and died; or it was started anew on another machine.
            self._near.discard(self._actors[message.metadata.dst_node_id])
            return Message(Error(NODE_UNAVAILABLE, f"The node's memory is gone: {error}"), reply_to=message)
        return Message(_unpack(packed, memory), reply_to=message)


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


class _Outgoing:
    """The messages of one exchange on their way: each large record is laid out once, however many share it."""

    def __init__(self) -> None:
        self._stored: dict[int, Any] = {}
        self._memory: HandedMemory | None = None
        self._handed: dict[tuple[int, ...], tuple[dict[str, Packed], Place | None]] = {}

    def stored(self, content: RecordDict) -> tuple[dict[str, Any], None, list[Any]]:
        """For an actor anywhere: the content with numbers in place of large records, and these in the object store."""
        packed: dict[str, Any] = {}
        references: list[Any] = []
        large = _large(content)
        for name, record in content.items():
            if name in large:
                if id(record) not in self._stored:
                    self._stored[id(record)] = ray.put(_pack_record(record))
                packed[name] = len(references)
                references.append(self._stored[id(record)])
            else:
                packed[name] = _pack_record(record)
        return packed, None, references

    def handed(self, content: RecordDict) -> tuple[dict[str, Any], Place | None, list[Any]]:
        """For an actor that can read this process' memory."""
        large = _large(content)
        key = tuple(id(record) for record in large.values())
        if key not in self._handed:
            if self._memory is None:
                self._memory = HandedMemory()
            self._handed[key] = _laid_out(large, self._memory)
        packed, place = self._handed[key]
        return {**_pack({name: content[name] for name in content if name not in large}), **packed}, place, []


def _hand_over(content: RecordDict, memory: HandedMemory) -> tuple[dict[str, Packed], Place | None]:
    """A reply with its large records in memory to be read."""
    large = _large(content)
    packed, place = _laid_out(large, memory)
    return {**_pack({name: content[name] for name in content if name not in large}), **packed}, place


def _laid_out(large: Mapping[str, ArrayRecord], memory: HandedMemory) -> tuple[dict[str, Packed], Place | None]:
    """The records with spans in place of their arrays' bytes, and where these are."""
    if not large:
        return {}, None
    place, spans = memory.add([array.data for record in large.values() for array in record.values()])
    span = iter(spans)
    packed = {
        name: {"arrays": {key: (array.dtype, array.shape, array.stype, next(span)) for key, array in record.items()}}
        for name, record in large.items()
    }
    return packed, place


def _large(content: RecordDict) -> dict[str, ArrayRecord]:
    records = {name: record for name, record in content.items() if isinstance(record, ArrayRecord)}
    return {name: record for name, record in records.items() if _size(record) >= SHARED_FROM}


def _pack(content: Mapping[str, Any]) -> dict[str, Packed]:
    return {name: _pack_record(record) for name, record in content.items()}


def _pack_record(record: Any) -> Packed:
    if isinstance(record, ArrayRecord):
        arrays = {
            name: (array.dtype, array.shape, array.stype, np.frombuffer(array.data, np.uint8))
            for name, array in record.items()
        }
        return {"arrays": arrays}
    return {"metrics" if isinstance(record, MetricRecord) else "config": dict(record.items())}


def _unpack(content: dict[str, Packed], memory: memoryview | None) -> RecordDict:
    return RecordDict({name: _unpack_record(packed, memory) for name, packed in content.items()})


def _unpack_record(packed: Packed, memory: memoryview | None) -> Any:
    if "arrays" not in packed:
        return MetricRecord(packed["metrics"]) if "metrics" in packed else ConfigRecord(packed["config"])
    record = ArrayRecord()
    for name, (dtype, shape, stype, values) in packed["arrays"].items():
        array = Array(dtype, shape, stype, b"")
        # A view of shared memory in place of a copy; its readers take any buffer.
        array.data = _bytes(values, memory)
        record[name] = array
    return record


def _bytes(values: Any, memory: memoryview | None) -> Any:
    if isinstance(values, np.ndarray):
        return values.data
    start, length = values
    assert memory is not None
    return memory[start : start + length]
