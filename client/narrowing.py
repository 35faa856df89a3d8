"""What a run asks for in half the bytes is rounded where it leaves the node, after attack and defense."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from protocol.messages import narrow_reply, read_train_request


def narrowing(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A mod that rounds the updates in the app's reply to the request's ``upload_dtype``."""
    reply = call_next(message, context)
    if message.metadata.message_type == "train" and reply.has_content():
        narrow_reply(reply.content, read_train_request(message.content).upload_dtype)
    return reply
