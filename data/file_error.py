"""What is wrong with a data file, for its owner and for everybody else."""

from __future__ import annotations

from settings.options import OptionError


class DataFileError(OptionError):
    """A data file is not as it should be.

    The error's text is for the file's owner: it names the file and may quote what stands in it. ``public`` is for
    others: the kind of fault, the column as this program calls it, and the row, and nothing out of the file.
    """

    def __init__(self, source: str, fault: str, row: str = "", detail: str = "") -> None:
        """``row``: such as "line 7"; ``detail``: what only the owner may read."""
        found = f"{fault} ({detail})" if detail else fault
        super().__init__(f"{source}, {row}: {found}." if row else f"{source}: {found}.")
        self.public = f"{row}: {fault}" if row else fault
