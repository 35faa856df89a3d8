"""What a node answers, as a line of plain functions: decode once, train, attack, add noise, encode once."""

from __future__ import annotations

from flwr.app import Context, Message, RecordDict

from attacks.poisoning import poisoned_updates, private_pairs, with_poison
from client.fl_wbc import with_noise
from client.introduction import introduce
from client.node import node_of
from protocol.messages import (
    counts_content,
    read_evaluate_request,
    read_model,
    read_train_request,
    train_reply_content,
)


def answer(message: Message, context: Context) -> Message:
    """The node's reply to a message; raises what ``ANSWERS`` raise."""
    return Message(ANSWERS[message.metadata.message_type](message.content, context), reply_to=message)


def train(content: RecordDict, context: Context) -> RecordDict:
    """One update for each of the users asked for; the node's state is stepped as a whole before the reply leaves."""
    request, model = read_train_request(content), read_model(content)
    node = node_of(context, request.run)
    with node.serving(request):
        attacker, defender = node.attacker(request), node.defender()
        # The attack trains with the private vectors as they are before the round's step.
        attack = None
        poisoned = None if attacker is None else poisoned_updates(attacker, model, request)
        alter = None if attacker is None else private_pairs(attacker, request)
        reply = node.learner.train(model, request, alter=alter)
        if attacker is not None and poisoned is not None:
            reply = with_poison(reply, poisoned)
            attack = attacker.keep()
        if defender is not None:
            reply = with_noise(reply, defender, request.server_round)
    return train_reply_content(reply, request.server_round, request.upload_dtype, attack)


def evaluate(content: RecordDict, context: Context) -> RecordDict:
    """Counts that add up over nodes."""
    request, model = read_evaluate_request(content), read_model(content)
    node = node_of(context, request.run)
    with node.serving(request):
        counts = node.learner.evaluate(model, request, node.metrics(request))
    return counts_content(counts, request.server_round)


ANSWERS = {"query": introduce, "train": train, "evaluate": evaluate}
"""What answers a message of each type."""
