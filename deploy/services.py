"""Compose services of more nodes: ``python -m deploy.services --first 3 --nodes 2 > docker-compose.override.yml``.

Each is the service ``benign-0`` of ``docker-compose.yml`` with another part of the users, another key and another state
folder. Docker Compose reads ``docker-compose.override.yml`` beside that file, and adds what is in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

COMPOSE = Path(__file__).resolve().parent.parent / "docker-compose.yml"
PATTERN = "benign-0"


def node_services(indexes: Iterable[int], role: str = "benign", gpus: Sequence[int] = ()) -> dict[str, Any]:
    """A Compose file with a service for each of these nodes of a role, its key and its state's volume.

    ``gpus``: the numbers of the machine's GPUs, which the services get one each, in turn; none: on CPUs.
    Variables of the file stay as they are written.
    """
    pattern = json.dumps(yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"][PATTERN])
    services: dict[str, Any] = {}
    for order, index in enumerate(indexes):
        name = f"{role}-{index}"
        service = json.loads(pattern.replace(PATTERN, name))
        config = service["command"].pop()
        config = config.replace('role="benign" partition-id=0', f'role="{role}" partition-id={index}')
        if role == "attacker":
            config = config.replace("${PARTITIONS:-3}", "${ATTACKER_PARTITIONS:-1}")
        if gpus:
            config = config.replace('device="cpu"', 'device="cuda"')
            service["deploy"] = deploy_with_gpu(gpus[order % len(gpus)])
        service["command"].append(config)
        services[name] = service
    return {
        "services": services,
        "volumes": {f"{name}-state": None for name in services},
        "secrets": {name: {"file": f"./deploy/keys/nodes/{name}"} for name in services},
    }


def deploy_with_gpu(number: int) -> dict[str, Any]:
    """A service's ``deploy`` that gives it the GPU of that number; its process sees it as cuda:0."""
    device = {"driver": "nvidia", "device_ids": [str(number)], "capabilities": ["gpu"]}
    return {"resources": {"limits": {"cpus": "2", "memory": "8g"}, "reservations": {"devices": [device]}}}


def main(arguments: list[str] | None = None) -> None:
    """``python -m deploy.services``."""
    parser = argparse.ArgumentParser(prog="python -m deploy.services", description="Compose services of more nodes.")
    parser.add_argument("--role", choices=("benign", "attacker"), default="benign")
    parser.add_argument("--first", type=int, default=0, help="the first node's number, which is also its part")
    parser.add_argument("--nodes", type=int, default=1, help="how many nodes")
    parser.add_argument("--gpus", type=int, nargs="+", default=[], help="the GPUs that they get one each, in turn")
    chosen = parser.parse_args(arguments)
    made = node_services(range(chosen.first, chosen.first + chosen.nodes), chosen.role, chosen.gpus)
    yaml.safe_dump(made, sys.stdout, sort_keys=False, width=200)


if __name__ == "__main__":
    main()
