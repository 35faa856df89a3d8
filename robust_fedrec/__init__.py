"""The program's own name: its command line, and the check that Python finds its packages and no others.

The packages have short names (``data``, ``models``, ``server``, …). A file of such a name beside somebody's script
comes before them, and the import would fail somewhere else, without saying why.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robust_fedrec.simulated import Run

_PACKED = Path(__file__).resolve().parent / "packages"
PROJECT = _PACKED if _PACKED.is_dir() else Path(__file__).resolve().parent.parent
"""The folder with this project's packages; an installed wheel has it inside of this package."""

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


def put_project_first() -> None:
    """Here, and in the processes that this one starts, which otherwise look in the current folder first."""
    project = str(PROJECT)
    sys.path[:] = [project, *(path for path in sys.path if path != project)]
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != project]
    os.environ["PYTHONPATH"] = os.pathsep.join([project, *others])
    os.environ["PYTHONSAFEPATH"] = "1"


def simulate(**options: bool | float | str) -> Run:
    """Train once in simulation; options are those of ``docs/options.md``, with "_" for "-".

    Raises ``settings.options.OptionError`` for an option that does not exist or has a wrong value.
    """
    put_project_first()
    from robust_fedrec.simulated import simulated

    return simulated(options)


def require_own(package: str) -> None:
    """Raise ``ImportError`` that names the file in the way where ``package`` would import another program's."""
    for name in IMPORTS[package]:
        found = _found(name)
        # A copy of this program in another place is one, too: a bundle that Flower unpacked, say.
        if found is not None and not _is_own(_folder_of(found)):
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


def _is_own(folder: Path) -> bool:
    return folder == PROJECT or (folder / Path(__file__).parent.name / "__init__.py").is_file()


def _folder_of(found: Path) -> Path:
    return found.parent.parent if found.name == "__init__.py" else found.parent
