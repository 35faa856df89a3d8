"""What of a node's errors may leave the node: kind and place, never its data nor its paths."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from client.state.store import AbandonedError
from data.file_error import DataFileError
from protocol.admission import UnreadableError
from settings.options import OptionError

PROJECT = Path(__file__).resolve().parents[2]

SENTENCES = (OptionError, AbandonedError, UnreadableError)
"""Errors whose texts this program wrote; of node's data they may name paths alone."""

PATH = re.compile(r"""(?P<quote>['"])[~/].*?(?P=quote)|(?<![\w.:/])~?/[^\s'",;:()]+""")


def public_text(error: BaseException) -> str:
    """What the server may be told of an error; the node's own log has all of it.

    Of a fault in a data file its kind, column and row; of this program's own errors their sentence without paths; of
    any other its place in the program, because its text may quote what the program was working on.
    """
    if isinstance(error, DataFileError):
        return error.public
    if isinstance(error, SENTENCES):
        return PATH.sub("(a path)", str(error))
    reason = f"{error.strerror}, " if isinstance(error, OSError) and error.strerror else ""
    return f"{reason}in {_place(error)}; the node's log says more"


def own_data_error(error: OptionError) -> OptionError:
    """The error that says why a node's own file cannot be used."""
    return OptionError(
        f"data, in this node's configuration: {public_text(error).rstrip('.')}; the node's log says more."
    )


def _place(error: BaseException) -> str:
    """The file and line of this program where an error was seen last."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(PROJECT) and "site-packages" not in path.parts:
            return f"{path.relative_to(PROJECT)}, line {frame.lineno}"
    return "code that is not this program's"
