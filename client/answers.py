"""What a node answers: honest at its core, with an attack or a defense around it where the run has one."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from attacks.mod import Attacker, poisoning
from client.fl_wbc import WhiteBloodCells, perturbing
from client.narrowing import narrowing
from client.node import introduce, node_of
from protocol.messages import (
    counts_content,
    read_evaluate_request,
    read_model,
    read_train_request,
    train_reply_content,
)
from protocol.requests import TrainRequest


def _attacker(context: Context, request: TrainRequest) -> Attacker | None:
    return node_of(context).attacker(request)


def _defender(context: Context) -> WhiteBloodCells | None:
    return node_of(context).defender()


def following(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Before anybody uses the node's state: bring it to where the request expects it."""
    kind = message.metadata.message_type
    if kind == "train":
        node_of(context).follow(read_train_request(message.content))
    elif kind == "evaluate":
        node_of(context).follow(read_evaluate_request(message.content))
    return call_next(message, context)


app = ClientApp(mods=[narrowing, following, poisoning(_attacker), perturbing(_defender)])


@app.query()
def hosted(message: Message, context: Context) -> Message:
    """Say which users this node hosts."""
    return Message(introduce(message.content, context), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with one update for each of the users asked for."""
    request = read_train_request(message.content)
    node = node_of(context)
    reply = node.learner.train(read_model(message.content), request, alter=node.private_pairs(request))
    return Message(train_reply_content(reply, request.server_round), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with counts that add up over nodes."""
    request = read_evaluate_request(message.content)
    counts = node_of(context).learner.evaluate(read_model(message.content), request)
    return Message(counts_content(counts, request.server_round), reply_to=message)
