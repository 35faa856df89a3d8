"""A grid whose nodes live in this process: no network, no Ray, the same apps and messages."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from itertools import count
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from server.grids.direct_grid import DirectGrid


class LocalGrid(DirectGrid):
    """Calls the ClientApp in this process, one node after another."""

    def __init__(
        self, app: ClientApp, run_config: dict[str, Any], num_nodes: int, state_dir: str, run_id: int = 1
    ) -> None:
        self._app = app
        self._contexts = {
            node: Context(
                run_id,
                node,
                {"partition-id": node - 1, "num-partitions": num_nodes, "state-dir": state_dir},
                RecordDict(),
                run_config,
            )
            for node in range(1, num_nodes + 1)
        }
        super().__init__(self._contexts)
        self._replies: dict[str, Message] = {}
        self._ids = count(1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let the nodes answer at once and keep their replies."""
        ids = []
        for message in messages:
            ids.append(str(next(self._ids)))
            self._replies[ids[-1]] = self._answer(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies, each once."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies of all nodes, in the order of the messages."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            return self.raised(message, f"{type(error).__name__}: {error}", traceback.format_exc())
