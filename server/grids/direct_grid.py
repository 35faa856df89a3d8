"""What the project's own grids share: nodes that are there from the start and answer without polling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from logging import ERROR
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.serverapp import Grid

STACKS = 3
"""Errors of nodes whose stack is logged; the same error often comes again in every round."""


class DirectGrid(Grid):
    """A grid that has its replies as soon as they are made; ``nodes`` by id, whatever a node is."""

    def __init__(self, nodes: Mapping[int, Any]) -> None:
        self._nodes = nodes
        self._run: Any = None
        self._stacks = 0

    def set_run(self, run: Any) -> None:
        """Nothing depends on the run here."""
        self._run = run

    @property
    def run(self) -> Any:
        """What ``set_run`` was given."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes."""
        return list(self._nodes)

    def raised(self, message: Message, error: str, stack: str = "") -> Message:
        """The reply of a node whose app raised ``error``; its stack goes into the log, as with Flower's own engines."""
        if stack and self._stacks < STACKS:
            self._stacks += 1
            log(ERROR, "Node %d's app raised an error:\n%s", message.metadata.dst_node_id, stack.rstrip())
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, error), reply_to=message)
