"""Paths that a person has given: made absolute, and looked at, with a sentence wherever that cannot be done."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from settings.options import OptionError

LONGEST = 200
"""Bytes of a name, so that what is made of it, with the time or a number behind it, is one too."""


def is_name(text: str) -> bool:
    """Whether a text can be the name of a folder in another one."""
    return "/" not in text and "\0" not in text and text not in (".", "..") and len(os.fsencode(text)) <= LONGEST


def absolute(option: str, path: str | Path) -> Path:
    """The absolute path that a person means by a text: "~" is a home folder, and what is relative counts from here.

    Raises ``OptionError`` that names the option where there is no such path.
    """
    text = str(path)
    if "\0" in text:
        raise OptionError(f"{option} = {text!r}: expected a path without a NUL character.")
    try:
        expanded = Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0][1:]
        if user:
            raise OptionError(f"{option} = {text!r}: there is no user {user!r} here, and so no home folder.") from None
        raise OptionError(
            f"{option} = {text!r}: no home folder is known here (HOME is not set, and the system does not know this "
            f"user). Set HOME, or give {option} as an absolute path."
        ) from None
    try:
        return expanded.absolute()
    except OSError:
        raise OptionError(
            f"{option} = {text!r}: the folder that this program was started in is gone. Start it in another one, or "
            "give an absolute path."
        ) from None


def status_of(option: str, path: Path) -> os.stat_result | None:
    """What the system knows of a file or folder, ``None`` where there is none.

    Raises ``OptionError`` that names the option where the system does not let one look, or takes no such name.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OptionError(f"{option} = {str(path)!r}: cannot be looked at ({error.strerror or error}).") from None
    except ValueError as error:
        raise OptionError(f"{option} = {str(path)!r}: expected a path ({error}).") from None


def is_file(option: str, path: Path) -> bool:
    """Whether there is such a file. Raises ``OptionError`` as ``status_of`` does."""
    found = status_of(option, path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(option: str, path: Path) -> bool:
    """Whether there is such a folder. Raises ``OptionError`` as ``status_of`` does."""
    found = status_of(option, path)
    return found is not None and stat.S_ISDIR(found.st_mode)
