"""How a kernel is compiled, and where the machine code is kept between processes.

Numba does not see that a kernel's callee changed, so that one folder holds the code of one state of all kernels. The
folder is the first of these that can be written: ``NUMBA_CACHE_DIR``, the user's cache, the folder of temporary files.
Where none can be, each process compiles for itself and says so.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import _CacheLocator

Function = TypeVar("Function", bound=Callable[..., Any])

CONFIG: Any = numba.config

LOG = logging.getLogger("flwr")

_kernels: list[Any] = []


def compiled(function: Function) -> Function:
    """Compile a function at its first call. Sums keep the order in which they are written."""
    return _compiled(function, fastmath=False)


def compiled_reduction(function: Function) -> Function:
    """Compile a function whose sums are added up lane by lane: the order then depends on the number of terms alone.

    Only for functions whose loops all have one length, else a value may depend on what stands beside it.
    """
    return _compiled(function, fastmath={"reassoc", "contract", "nsz"})


def compiled_fused(function: Function) -> Function:
    """Compile a function in which a product and the sum that it is added to are rounded once, together."""
    return _compiled(function, fastmath={"contract"})


def compilations() -> int:
    """How many kernels this process has compiled itself, not counting those that it found in the folder."""
    if CONFIG.DISABLE_JIT:
        return 0
    return sum(len(kernel.nopython_signatures) - sum(kernel.stats.cache_hits.values()) for kernel in _kernels)


@cache
def code_folder() -> Path | None:
    """The folder of compiled code, made if need be, ``None`` where no folder can be written."""
    name = f"kernels-{_fingerprint()}"
    asked = os.environ.get("NUMBA_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    temporary = Path(tempfile.gettempdir()) / f"robust-fedrec-{os.getuid()}"
    for parent in ([Path(asked)] if asked else []) + [Path(home) / "robust-fedrec", temporary]:
        if _is_ours(parent / name):
            return parent / name
    LOG.warning("No folder can be written to keep compiled code in: this process compiles in memory. %s", ADVICE)
    return None


ADVICE = "Name a folder in NUMBA_CACHE_DIR that it can write, so that only the first process waits."


class CodeFolder(_CacheLocator):
    """Tells numba where machine code is kept: wherever a kernel lies, and whenever it came there.

    Each run from a bundle has the sources in another folder. The folder's name stands for their contents.
    """

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._folder = str(code_folder())
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> CodeFolder:
        """The folder, for any function."""
        return cls(function, file)

    def get_cache_path(self) -> str:
        """The folder."""
        return self._folder

    def get_source_stamp(self) -> str:
        """What code must have been made of to be used."""
        return _fingerprint()

    def get_disambiguator(self) -> str:
        """What tells functions of one name in files of one name apart."""
        return str(self._line)


def _compiled(function: Function, fastmath: Any) -> Function:
    folder = code_folder()
    before = CONFIG.CACHE_LOCATOR_CLASSES
    # Numba asks for the folder once, when a function is declared; other people's functions keep theirs.
    CONFIG.CACHE_LOCATOR_CLASSES = f"{__name__}.{CodeFolder.__name__}"
    try:
        options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, "cache": folder is not None}
        kernel: Any = numba.njit(**options)(function)
    finally:
        CONFIG.CACHE_LOCATOR_CLASSES = before
    _kernels.append(kernel)
    return kernel  # type: ignore[no-any-return]


@cache
def _fingerprint() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _is_ours(folder: Path) -> bool:
    """Whether the folder can be written, and by this user alone: what is loaded from it is run."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = folder.stat()
        if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
