"""The directory of a run: named by its options and the time, never one that another run uses."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from server.config import ServerConfig
from server.recovery.resume import directory_to_resume
from server.results.storage import storing
from settings.options import OptionError
from settings.paths import LONGEST

UNUSED = {"lock", "nodes"}
"""What lies in the directory of a run that came to no first round."""


def make_run_directory(config: ServerConfig) -> Path:
    """Create and return it, absolute; of a run that is resumed its own. Raises ``OptionError`` where it cannot be."""
    options = config.options
    if options.resume:
        return directory_to_resume(config)
    attack = options.attack.rpartition(":")[2] if config.attacked else "none"
    parts = [options.dataset, options.model, attack, options.defense, f"seed{options.seed}"]
    chosen = "-".join(Path(part).name.split(".")[0].replace("\0", "") for part in parts)
    # A data file may have a long name, and the system takes no name of more than 255 bytes.
    shortened = chosen.encode(errors="ignore")[:LONGEST].decode(errors="ignore")
    made = shortened + time.strftime("-%Y%m%d-%H%M%S")
    base, name = config.output_dir, options.run_name or made
    try:
        base.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            directory = base / (name if attempt == 1 else f"{name}-{attempt}")
            try:
                directory.mkdir()
            except FileExistsError:
                continue
            return directory
    except OSError as error:
        raise OptionError(
            f"output-dir = {str(base)!r}: cannot be written ({error.strerror}); name a folder that can."
        ) from error
    raise OptionError(f"run-name = {name!r}: there are already a thousand runs of this name in {base}.")


@contextmanager
def dropped_if_unused(directory: Path) -> Iterator[None]:
    """Remove the directory again where an error ends the run before it has written anything of its own there."""
    try:
        yield
    except Exception:
        with suppress(OSError):
            if {path.name for path in directory.iterdir()} <= UNUSED:
                shutil.rmtree(directory)
        raise


@contextmanager
def held(directory: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes from training in the same directory.

    Raises ``OptionError`` where one still does after ``patience`` seconds.
    """
    with storing(directory):
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        until = time.monotonic() + patience
        while not _locked(descriptor):
            if time.monotonic() > until:
                raise OptionError(f"{directory} is being trained in by another process: wait until it ends.")
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
