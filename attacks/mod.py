"""An attack as a Flower mod around an honest ClientApp, for apps that speak this project's messages.

This project's own app calls the same functions without a mod (``client.answers``).
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from attacks.poisoning import Attacker, poisoned_updates, with_poison
from protocol.messages import read_model, read_own_reply, read_train_request, train_reply_content
from protocol.requests import TrainRequest


def poisoning(attacker_of: Callable[[Context, TrainRequest], Attacker | None]) -> Mod:
    """A mod that lets the app answer honestly and replaces the malicious users' updates in the reply.

    ``attacker_of`` gives the attacker that lives on this node, or ``None`` on an honest one. Raises
    ``ValueError`` where an attack answers for other users than those selected.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type != "train":
            return call_next(message, context)
        request = read_train_request(message.content)
        attacker = attacker_of(context, request)
        poisoned = None if attacker is None else poisoned_updates(attacker, read_model(message.content), request)
        reply = call_next(message, context)
        if attacker is None or poisoned is None or not reply.has_content():
            return reply
        state = attacker.keep()
        honest = read_own_reply(reply.content, request.upload_dtype)
        answer = with_poison(honest, poisoned)
        content = train_reply_content(answer, request.server_round, request.upload_dtype, state)
        return Message(content, reply_to=message)

    return mod
