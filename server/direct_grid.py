"""What the project's own grids share: nodes that are there from the start and answer without polling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid


class DirectGrid(Grid):
    """A grid that has its replies as soon as they are made; ``nodes`` by id, whatever a node is."""

    def __init__(self, nodes: Mapping[int, Any]) -> None:
        self._nodes = nodes
        self._run: Any = None

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
