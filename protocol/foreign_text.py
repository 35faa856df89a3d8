"""Text that somebody else wrote, made fit for a line of a log."""

from __future__ import annotations

LONGEST_REASON = 200
"""Characters that are kept."""


def shown(reason: str) -> str:
    """A reason with what a stranger wrote in it, short enough for a line of a log, without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in reason[:LONGEST_REASON])
