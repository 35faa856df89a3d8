"""A grid whose nodes are long-lived Ray actors, each with its shard and its state in memory.

A round costs two hops through shared memory instead of Flower's polling and pickling: the model is laid out once
a round, actors on this machine read it there, and the server what they answer (see ``handed_memory``); for actors
on others it goes through Ray's object store. Messages, apps and mods are the same as on Flower's own engines.
"""

from __future__ import annotations

import importlib
import secrets
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import ray
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from protocol.transport import send_as
from server.grids.direct_grid import DirectGrid
from server.grids.freed_memory import ENVIRONMENT
from server.grids.handed_memory import HandedMemory, Place, read
from server.grids.packing import Near, Outgoing, Packed, handed_over, packed_content, unpacked
from strategies.sparse.side_by_side import side_by_side


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
        send_as(run_id, 0)
        self._exchange = 0
        self._handed: HandedMemory | None = None
        self._contexts = {
            node: Context(run_id, node, node_config, RecordDict(), run_config)
            for node, node_config in node_configs.items()
        }

    def is_near(self, place: Place, secret: bytes) -> bool:
        """Whether this process reads the ``secret`` in the server's memory, so that the server can read this one's."""
        try:
            return read(place) == secret
        except OSError:
            return False

    def answer(
        self, address: tuple[int, str, str], content: dict[str, Any], near: Near | None, *stored: Any
    ) -> tuple[bool, Any]:
        """Whether it succeeded, and the packed reply or the error's text and stack.

        ``address``: node, message type and group; ``stored``: records that were put into the object store once for
        several messages; ``near``: how the server, on the same machine, hands over memory, ``None`` for another one.
        """
        node, kind, group = address
        try:
            memory = None if near is None or near.place is None else read(near.place)
        except OSError:
            # This process was started anew on another machine.
            return False, None
        try:
            records = {name: stored[part] if isinstance(part, int) else part for name, part in content.items()}
            message = Message(unpacked(records, memory), node, kind, group_id=group)
            reply = self._app(message, self._contexts[node]).content
        except Exception as error:
            return False, (f"{type(error).__name__}: {error}", traceback.format_exc())
        if near is None:
            return True, (packed_content(reply.items()), None)
        if self._handed is None:
            self._handed = HandedMemory()
        if near.exchange != self._exchange:
            # The server has read what belonged to the last exchange, or waits for it no longer.
            self._handed.clear()
            self._exchange = near.exchange
        return True, handed_over(reply, self._handed)


class RayGrid(DirectGrid):
    """Sends messages to actors and gathers the replies as they come."""

    def __init__(
        self, app: str, app_dir: Path, run_id: int, run_config: Packed, placement: Placement, state_dir: str
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
                    "state-dir": state_dir,
                }
                for node in nodes[first - 1 : first - 1 + placement.together]
            }
            actor = kind.remote(app, str(app_dir), run_id, node_configs, dict(run_config), placement.threads)
            self._actors.update(dict.fromkeys(node_configs, actor))
        super().__init__(self._actors)
        self._pending: dict[str, tuple[Message, Any]] = {}
        self._ids = count(1)
        self._exchange = 0
        self._outgoing: Outgoing | None = None
        self._near: set[Any] = set()
        self._probes: dict[Any, Any] = {}
        with suppress(OSError):
            self._probe = HandedMemory()
            secret = secrets.token_bytes(16)
            place, _ = self._probe.add([[secret]])
            self._probes = {actor.is_near.remote(place, secret): actor for actor in set(self._actors.values())}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; a record that several messages share goes into shared memory once."""
        self._exchange += 1
        self._find_near()
        outgoing = Outgoing()
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
        return side_by_side(self._reply, [futures[future] for future in done])

    def _reply(self, message_id: str) -> Message:
        message, future = self._pending.pop(message_id)
        try:
            succeeded, answer = ray.get(future)
        except ray.exceptions.RayError as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, reason), reply_to=message)
        if not succeeded and answer is not None:
            return self.raised(message, *answer)
        try:
            content = self._content(answer)
        except OSError as error:
            # It answered and died, or is on another machine now, to which the next message goes another way.
            self._near.discard(self._actors[message.metadata.dst_node_id])
            reason = f"The node's memory cannot be read: {error}"
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, reason), reply_to=message)
        return Message(content, reply_to=message)

    @staticmethod
    def _content(answer: Any) -> RecordDict:
        if answer is None:
            raise OSError("the node is not on this machine")
        packed, place = answer
        return unpacked(packed, None if place is None else read(place))
