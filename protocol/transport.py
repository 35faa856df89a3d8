"""What depends on Flower's release: how its APIs are reached, how calls fail, and what a process that sends must say.

In 1.34 every API is gRPC, in 1.42 every one is HTTP. The rest of the program uses the Message API, which is the same.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from importlib.metadata import version

from flwr.app import Context, Message
from flwr.common.serde import context_from_proto, context_to_proto, message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.run import RunNotRunningException
from grpc import RpcError, StatusCode
from httpx import ConnectError, HTTPError, HTTPStatusError, codes

HTTP = tuple(int(part) for part in version("flwr").split(".")[:2]) >= (1, 42)
"""Whether SuperLink and SuperNode speak HTTP, on one port each, and no gRPC."""

CALL_ERRORS = (RunNotRunningException, RpcError, HTTPError)
"""What a grid of Flower's raises where a call to the SuperLink fails. The first is no ``Exception``."""

_OVER = (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED, StatusCode.UNAVAILABLE)
_OVER_HTTP = (codes.UNAUTHORIZED, codes.FORBIDDEN)


def is_over(error: BaseException) -> bool:
    """Whether a failed call says that the SuperLink has ended the run, or that there is no SuperLink any more."""
    if isinstance(error, RpcError):
        return error.code() in _OVER
    if isinstance(error, HTTPStatusError):
        return error.response.status_code in _OVER_HTTP
    return isinstance(error, RunNotRunningException | ConnectError)


def send_as(run: int, node: int) -> None:
    """Let this process send messages of a run, where Flower has not started it and told it by itself.

    From 1.42 on a message asks its process for these numbers; in 1.34 the grid writes them.
    """
    with suppress(ImportError):
        identity = import_module("flwr.supercore.task_identity").TaskIdentity
        identity.run_id, identity.node_id, identity.task_id = run, node, 0


def message_to_bytes(message: Message) -> bytes:
    """A message in Flower's own encoding."""
    encoded: bytes = message_to_proto(message).SerializeToString()
    return encoded


def message_from_bytes(encoded: bytes) -> Message:
    """The message that ``message_to_bytes`` has encoded."""
    return message_from_proto(ProtoMessage.FromString(encoded))


def context_to_bytes(context: Context) -> bytes:
    """A context in Flower's own encoding."""
    encoded: bytes = context_to_proto(context).SerializeToString()
    return encoded


def context_from_bytes(encoded: bytes) -> Context:
    """The context that ``context_to_bytes`` has encoded."""
    return context_from_proto(ProtoContext.FromString(encoded))
