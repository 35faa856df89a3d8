"""A node's own configuration, apart from all that takes long to import."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

from settings.options import option, require
from settings.run import DEVICE, DEVICE_IN_WORDS


@dataclass(frozen=True)
class NodeOptions:
    """A node's own configuration (``--node-config``)."""

    partition_id: int = option(0, "which part of its users the node hosts", at_least=0)
    num_partitions: int = option(1, "how many parts there are of its users", at_least=1)
    role: Literal["", "benign", "attacker"] = option(
        "", 'benign, attacker: whose users are parted; "", as in simulation: both among one set of parts'
    )
    data: str = option(
        "", "a file of the node's own, whose users it hosts instead; with the role attacker all of them are malicious"
    )
    columns: str = option("", "which of that file's columns are which, as the run's option of that name")
    device: str = option(
        "",
        'where the node computes: auto, cpu, cuda, cuda:1, …; "": as the run says',
        matches="|" + DEVICE,
        expected=f'{DEVICE_IN_WORDS}, or "" for what the run says',
    )
    state_dir: str = option("", 'where private vectors are kept; memory: nowhere; "": where the run says')
    data_dir: str = option("", "where the run's data set is, if elsewhere than the run says")
    resident_seconds: float = option(
        300.0, "how long the node's process stays after a message when deployed; 0: one process a message", at_least=0
    )

    def __post_init__(self) -> None:
        within = 0 <= self.partition_id < self.num_partitions
        require(within, "partition-id", self.partition_id, f"0 to {self.num_partitions - 1}")

    @property
    def name(self) -> str:
        """What tells this node's state from that of others on the same machine."""
        role = self.role or "node"
        if self.data:
            return f"{role}-own-{zlib.crc32(self.data.encode()):08x}"
        return f"{role}-{self.partition_id}-of-{self.num_partitions}"
