"""The program's own name: its command line, and the check that Python finds its packages and no others.

The packages have short names (``data``, ``models``, ``server``, …). A file of such a name beside somebody's script
comes before them, and the import would fail somewhere else, without saying why.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

IMPORTS: dict[str, tuple[str, ...]] = {
    "settings": (),
    "data": ("draws", "settings"),
    "models": ("data", "draws", "settings"),
    "metrics": ("data", "settings"),
    "protocol": ("metrics", "models", "settings"),
    "attacks": ("data", "draws", "metrics", "models", "protocol", "settings"),
    "strategies": ("draws", "models", "protocol", "settings"),
    "client": ("attacks", "data", "draws", "metrics", "models", "protocol", "settings", "strategies"),
    "server": ("attacks", "client", "data", "draws", "metrics", "models", "protocol", "settings", "strategies"),
    "experiments": (
        "attacks",
        "client",
        "data",
        "draws",
        "metrics",
        "models",
        "protocol",
        "server",
        "settings",
        "strategies",
    ),
}
"""Which packages of this program each of its packages imports."""


def require_own(package: str) -> None:
    """Raise ``ImportError`` that names the file in the way where ``package`` would import another program's."""
    for name in IMPORTS[package]:
        found = _found(name)
        # A copy of this program in another place is one, too: a bundle that Flower unpacked, say.
        if found is not None and not (_folder_of(found) / Path(__file__).parent.name / "__init__.py").is_file():
            raise ImportError(
                f"Found {found} instead of the project's {name!r}: a file of that name stands before it where Python "
                "looks for modules. Rename the file, start from another folder, or use the command robust-fedrec, "
                f"which puts the project ({PROJECT}) first."
            )


def _found(name: str) -> Path | None:
    """The file that is imported under a name, or that would be."""
    module = sys.modules.get(name)
    if module is not None:
        origin = getattr(module, "__file__", None)
    else:
        spec = PathFinder.find_spec(name)
        origin = None if spec is None else spec.origin
    return Path(origin).resolve() if origin else None


def _folder_of(found: Path) -> Path:
    return found.parent.parent if found.name == "__init__.py" else found.parent
