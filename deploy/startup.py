"""What every process of the project's environment does when it starts: sets the variables that a run needs.

``deploy.environment`` copies this file into the environment, where Python calls ``set_variables`` before anything else
is imported. So it imports nothing of the project, and never raises.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

LOOPBACK = "localhost,127.0.0.1,::1"


def set_variables(token: str) -> None:
    """Set what is not set yet; ``token``: the file with the environment's token for Ray."""
    for name, value in variables(token).items():
        os.environ.setdefault(name, value)


def variables(token: str) -> dict[str, str]:
    """What processes of a run need, by name.

    Flower installs an app's dependencies anew at every run unless it is told not to. gRPC's fork handlers kill about
    one in ten of the processes that Ray starts from a process with gRPC threads. gRPC asks a proxy, where there is one,
    for the SuperLink on this machine, too. Ray lets in whoever reaches its ports unless it is given a token.
    """
    found = {
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "no_grpc_proxy": without_proxy(os.environ)["no_grpc_proxy"],
    }
    own = os.path.expanduser("~/.ray/auth_token")
    if any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or os.access(own, os.R_OK):
        # The user's own token, which is also that of the clusters that the user works on.
        return {**found, "RAY_AUTH_MODE": "token"}
    if os.access(token, os.R_OK):
        # An environment may be used by somebody else than who made it.
        return {**found, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token}
    return found


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that keep programs from asking a proxy for what is on this machine, by name.

    gRPC reads ``no_grpc_proxy``, and ``no_proxy`` where there is none; others read ``no_proxy``, or ``NO_PROXY``.
    """
    listed = environment.get("no_proxy") or environment.get("NO_PROXY", "")
    others = with_loopback(listed)
    return {
        "no_grpc_proxy": with_loopback(environment.get("no_grpc_proxy", listed)),
        "no_proxy": others,
        "NO_PROXY": others,
    }


def with_loopback(no_proxy: str) -> str:
    """Hosts for which no proxy is asked: those that ``no_proxy`` lists already, and this machine."""
    listed = [host.strip() for host in no_proxy.split(",") if host.strip()]
    return ",".join(dict.fromkeys([*listed, *LOOPBACK.split(",")]))
