"""Classes by the name of their place, ``module:Class``: the project's own, and those of its users."""

from __future__ import annotations

import importlib
import sys
from typing import TypeVar

from settings.options import OptionError
from settings.paths import absolute

Kind = TypeVar("Kind")


def search(folder: str) -> None:
    """Let ``load_class`` find modules in a run's ``plugin-dir`` too; "" is none."""
    if not folder:
        return
    path = str(absolute("plugin-dir", folder))
    if path not in sys.path:
        sys.path.append(path)


def load_class(option: str, place: str, kind: type[Kind]) -> type[Kind]:
    """Import the class at ``module:Class``, which must be a subclass of ``kind``.

    Raises ``OptionError`` that names the option where it cannot be imported or is something else.
    """
    module, _, name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise OptionError(
            f"{option}: cannot load {place!r} ({error}). Expected a class {name or '?'} in a module "
            f"{module or '?'} that Python can import; set plugin-dir to its folder."
        ) from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise OptionError(f"{option}: {place!r} is not one. Expected a subclass of {kind.__module__}.{kind.__name__}.")
    return found
