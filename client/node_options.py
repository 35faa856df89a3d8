"""A node's own configuration, apart from all that takes long to import."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from settings.options import require


@dataclass(frozen=True)
class NodeOptions:
    """A node's own configuration (``--node-config``).

    ``role``: ``benign`` or ``attacker`` host part ``partition-id`` of ``num-partitions`` of the benign or of
    the malicious users; empty, as in simulation, puts both among one set of partitions. ``data``: a file of
    the node's own, whose users it hosts instead of a partition; with the role ``attacker`` all of them are
    malicious; ``columns``: which of that file's columns are which, as in the run's option of that name.
    ``device``: auto, cpu, cuda, cuda:1, …; ``state-dir``: where private vectors are kept; ``data-dir``: where the
    run's data set is, if elsewhere than the run says; ``resident-seconds``: how long the node's process stays after a
    message when deployed, 0 for one process a message.
    """

    partition_id: int = 0
    num_partitions: int = 1
    role: str = ""
    data: str = ""
    columns: str = ""
    device: str = "auto"
    state_dir: str = ""
    data_dir: str = ""
    resident_seconds: float = 300.0

    def __post_init__(self) -> None:
        require(self.num_partitions >= 1, "num-partitions", self.num_partitions, "at least 1")
        within = 0 <= self.partition_id < self.num_partitions
        require(within, "partition-id", self.partition_id, f"0 to {self.num_partitions - 1}")
        require(self.role in ("", "benign", "attacker"), "role", self.role, "'benign' or 'attacker'")
        require(self.resident_seconds >= 0, "resident-seconds", self.resident_seconds, "0 or more")

    @property
    def name(self) -> str:
        """What tells this node's state from that of others on the same machine."""
        role = self.role or "node"
        if self.data:
            return f"{role}-own-{zlib.crc32(self.data.encode()):08x}"
        return f"{role}-{self.partition_id}-of-{self.num_partitions}"
