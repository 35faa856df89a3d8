"""Ray with a door: whoever wants to join the Ray of a run must show its token.

A Ray without a token listens on every interface of the machine and runs the code of whoever reaches it. Ray reads the
mode and the token from environment variables, once, when it is imported. ``make setup`` writes them into the project's
environment. In other environments ``start_ray`` sets them, so it must be called before anything imports Ray.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import tempfile
from contextlib import suppress
from logging import WARNING
from pathlib import Path

import grpc
from flwr.common.logger import log

from settings.options import require

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"
ADDRESS = "RAY_ADDRESS"

ANSWER = 5.0
"""Seconds within which a running Ray answers."""

WANTED = "the address of a Ray that runs (start one with `ray start --head`), or nothing for a Ray of the run's own"


def start_ray(address: str) -> None:
    """Connect to the cluster at ``address`` ("auto": the running one), or start one on this machine for "".

    A Ray of the run's own gets a random token, unless the environment has one, or says that none is asked for. The
    token of a cluster is the one that the environment has. Warns where Ray asks for none. Raises ``OptionError`` where
    no Ray answers at the address, where it does not let this process in, and where this process has another Ray.
    """
    if "ray" in sys.modules and _connected():
        _require_same(address)
        return
    os.environ.setdefault(FORK_SUPPORT, "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address:
        require_access(running_ray() if address == "auto" else address, "ray-address", address)
    elif MODE not in os.environ and "ray" not in sys.modules:
        if not has_token():
            os.environ[TOKEN] = secrets.token_hex(32)
        os.environ[MODE] = "token"
    import ray

    try:
        # "local" is Ray's name for a new one; without an address Ray joins whatever runs on this machine.
        ray.init(address or "local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        if not address:
            raise
        reason = str(error).splitlines()[0]
        require(False, "ray-address", address, f"a Ray that lets this process in with the token that it has; {reason}")
    warn_of_strangers()


def require_access(found: str, option: str, value: str) -> None:
    """Refuse the address of a Ray that does not answer, or that this process cannot join: Ray would wait in silence.

    ``found``: host and port; ``option`` and ``value``: what named it. Where Ray is not imported yet, it will ask for a
    token if the one at the address does: the two do not understand each other otherwise.
    """
    closed = asks_for_token(found)
    require(closed is not None, option, value, f"{WANTED}; no Ray answers {'at ' + found if found else 'here'}")
    mode = "token" if closed else "disabled"
    if "ray" not in sys.modules:
        os.environ[MODE] = mode
    fits = is_closed() == closed
    why = "asks for a token" if closed else "asks for no token"
    require(fits, option, value, f"a Ray of this process's kind: this one {why}. Set {MODE}={mode} before Ray starts")
    known = not closed or has_token()
    require(known, option, value, f"a Ray whose token this process knows: set {TOKEN_PATH} to a file with it")


def asks_for_token(address: str) -> bool | None:
    """Whether the Ray at ``address`` refuses who shows no token; ``None`` where no Ray answers."""
    if not address:
        return None
    with grpc.insecure_channel(address.rpartition("://")[2], [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=ANSWER)
        except grpc.RpcError as error:
            # Ray's servers for clients have other methods.
            return {grpc.StatusCode.UNAUTHENTICATED: True, grpc.StatusCode.UNIMPLEMENTED: False}.get(error.code())
    return False


def running_ray() -> str:
    """The address of the Ray that ``RAY_ADDRESS`` names, or that runs on this machine; "" where there is none."""
    if os.environ.get(ADDRESS, "") not in ("", "auto", "local"):
        return os.environ[ADDRESS]
    noted = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    with suppress(OSError):
        return noted.read_text(encoding="utf-8").strip()
    return ""


def has_token() -> bool:
    """Whether Ray will find a token: in a variable, in the file that one names, or where it looks by itself."""
    if os.environ.get(TOKEN):
        return True
    return os.access(os.environ.get(TOKEN_PATH) or os.path.expanduser("~/.ray/auth_token"), os.R_OK)


def is_closed() -> bool:
    """Whether Ray, as this process has imported it, asks for a token."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


def warn_of_strangers() -> None:
    """Warn where the Ray of this process runs the code of whoever reaches its ports."""
    if not is_closed():
        log(
            WARNING,
            "This run's Ray asks nobody for a token: whoever reaches its ports, which listen on all interfaces of this "
            "machine, can run code as this user. Set %s=token, and %s to a file with a random token, in the "
            "environment of the process that starts Ray; under flwr run that is the SuperLink, which stays.",
            MODE,
            TOKEN_PATH,
        )


def warn_of_flowers_ray() -> None:
    """Warn of what is wrong with the Ray that Flower's simulation has started, or joined, in this process."""
    import ray
    from ray._private import worker

    warn_of_strangers()
    if os.environ.get(FORK_SUPPORT, "1").lower() not in ("0", "false", "no"):
        log(
            WARNING,
            "gRPC's fork handlers are on, with which Ray dies in about every second start under flwr run. Set %s=0 in "
            "the environment of the process that starts the SuperLink.",
            FORK_SUPPORT,
        )
    node = getattr(worker, "_global_node", None)
    if not os.environ.get(ADDRESS) and node is not None and not node.is_head():
        at = ray.get_runtime_context().gcs_address
        log(
            WARNING,
            "Flower has joined the Ray at %s, which ran on this machine already. Set %s=local in the environment of "
            "the process that starts the SuperLink for a Ray of the run's own, or %s=%s to say that this one is meant.",
            *(at, ADDRESS, ADDRESS, at),
        )


def _connected() -> bool:
    import ray

    return bool(ray.is_initialized())


def _require_same(address: str) -> None:
    """Refuse a run that asks for another Ray than the one that this process is connected to already."""
    import ray

    connected = ray.get_runtime_context().gcs_address
    require(
        address in ("", "auto", connected),
        "ray-address",
        address,
        f"{connected}, to which this process is connected already; call ray.shutdown() before a run on another cluster",
    )
