"""What a node's container starts: a SuperNode for the first part of the users that nobody else hosts.

Replicas of one service get the same command line. So each takes a slot, which is a lock on a file in a
folder that they share; the slot's number is its ``partition-id`` and names its key. The lock ends with the
process, however it ends, and a replica that is restarted takes the slot that has become free, with its
key and its state.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from pathlib import Path

from deploy.federation import TomlScalar, as_toml


class NoSlotError(RuntimeError):
    """All parts are hosted already."""


def take_slot(folder: Path, name: str, count: int, first: int = 0) -> tuple[int, int]:
    """The first free one of the slots ``first`` to ``count`` - 1, and the descriptor that holds it.

    It holds it as long as a process has it open. Raises ``NoSlotError`` where none is free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(first, count):
        descriptor = os.open(folder / f"{name}-{index}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        os.set_inheritable(descriptor, True)
        return index, descriptor
    raise NoSlotError(
        f"All {name} nodes from {first} to {count - 1} run here already: start fewer, or raise the number of "
        "partitions."
    )


def supernode(chosen: argparse.Namespace, index: int) -> list[str]:
    """The command of the SuperNode that has this slot."""
    name = f"{chosen.role}-{index}"
    config: dict[str, TomlScalar] = {"role": chosen.role, "partition-id": index, "num-partitions": chosen.count}
    config |= {"device": chosen.device, "state-dir": str(chosen.state_dir / name)}
    if chosen.data_dir:
        config["data-dir"] = chosen.data_dir
    if chosen.data:
        config["data"] = chosen.data
    if chosen.columns:
        config["columns"] = chosen.columns
    return [
        "flower-supernode",
        *("--superlink", chosen.superlink),
        *("--root-certificates", str(chosen.root_certificates)),
        *("--auth-supernode-private-key", str(chosen.keys / name)),
        # Its own ClientApp processes alone connect to it.
        *("--clientappio-api-address", "127.0.0.1:0"),
        *("--health-server-address", chosen.health),
        *("--node-config", as_toml(config)),
    ]


def parser() -> argparse.ArgumentParser:
    """The options of ``python -m deploy.node``."""
    made = argparse.ArgumentParser(prog="python -m deploy.node", description="Start a SuperNode on a free part.")
    made.add_argument("--role", choices=("benign", "attacker"), required=True)
    made.add_argument("--count", type=int, required=True, help="how many parts the role's users are dealt out to")
    made.add_argument("--first", type=int, default=0, help="the first part that this machine may take")
    made.add_argument("--superlink", required=True, help="host:port of the Fleet API")
    made.add_argument("--root-certificates", type=Path, required=True)
    made.add_argument("--keys", type=Path, required=True, help="the folder of the nodes' private keys: benign-0, …")
    made.add_argument("--state-dir", type=Path, required=True, help="where private vectors are kept, and the slots")
    made.add_argument("--data-dir", default="", help="where the run's data set is")
    made.add_argument("--data", default="", help="a file with the node's own users, instead of a part")
    made.add_argument("--columns", default="", help="what that file's columns are called, as in the run's option")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    made.add_argument("--health", required=True, help="host:port where it answers the health check")
    return made


def main(arguments: list[str] | None = None) -> None:
    """``python -m deploy.node``: becomes the SuperNode."""
    chosen = parser().parse_args(arguments)
    try:
        index, _ = take_slot(chosen.state_dir / "slots", chosen.role, chosen.count, chosen.first)
    except NoSlotError as error:
        sys.exit(str(error))
    command = supernode(chosen, index)
    print(f"This is {chosen.role} node {index} of {chosen.count}.", flush=True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
