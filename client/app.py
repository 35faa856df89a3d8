"""The ClientApp: it imports what answers a message where and when that is needed, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.node_options import NodeOptions
from settings.options import read

DEPLOYED = "flwr-clientapp"
"""The program that a SuperNode starts for each message."""

app = ClientApp()


@app.query()
def hosted(message: Message, context: Context) -> Message:
    """Say which users this node hosts."""
    return _answer(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with one update for each of the users asked for."""
    return _answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with counts that add up over nodes."""
    return _answer(message, context)


def _answer(message: Message, context: Context) -> Message:
    if Path(sys.argv[0]).name == DEPLOYED:
        seconds = read(NodeOptions, context.node_config).resident_seconds
        if seconds > 0:
            from client.deployed import resident

            return resident.answer(message, context, seconds)
        return _answer_here(message, context)
    from client import answers

    return answers.answer(message, context)


def _answer_here(message: Message, context: Context) -> Message:
    """As a simulated node, but for errors: the server gets what ``public_text`` leaves, the node's log all of it."""
    from client import answers
    from client.deployed.public_errors import public_text
    from client.state.connections import outlast_power_cuts

    outlast_power_cuts()
    try:
        return answers.answer(message, context)
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {public_text(error)}") from error
